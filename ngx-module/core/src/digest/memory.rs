//! Memory that may be refused: a request whose buffers cannot grow is hashed as it came, it does
//! not end the worker.
//!
//! Cost: amortised constant per item, as `Vec`. Knows no bound but the one it is told.

/// No memory, or a buffer at its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// Appends one item.
pub(super) fn push<T>(items: &mut Vec<T>, item: T) -> Result<(), Refused> {
    items.try_reserve(1).map_err(|_| Refused)?;
    items.push(item);
    Ok(())
}

/// Appends `bytes` to a buffer that never gets longer than `bytes_max`, nor takes more memory than
/// that.
pub(super) fn append(buffer: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) -> Result<(), Refused> {
    let needed = buffer.len() + bytes.len();
    if needed > bytes_max {
        return Err(Refused);
    }
    if needed > buffer.capacity() {
        let wanted = needed.max(2 * buffer.capacity()).max(256).min(bytes_max);
        buffer.try_reserve_exact(wanted - buffer.len()).map_err(|_| Refused)?;
    }
    buffer.extend_from_slice(bytes);
    Ok(())
}

/// One value on the heap: a `Box` whose memory may be refused.
pub(super) struct Boxed<T>(Vec<T>);

impl<T> Boxed<T> {
    /// None if there is no memory.
    pub(super) fn new(value: T) -> Option<Self> {
        let mut place = Vec::new();
        place.try_reserve_exact(1).ok()?;
        place.push(value);
        Some(Self(place))
    }

    pub(super) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.first_mut()
    }

    pub(super) fn take(mut self) -> Option<T> {
        self.0.pop()
    }
}
