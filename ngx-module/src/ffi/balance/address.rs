//! Names and socket addresses of the peers, in this worker's memory, as nginx wants to point at
//! them.
//!
//! The zone's record may go to another peer while nginx still shows the name of the old one in a
//! log, so a request keeps the entry that it was given until it ends. An entry is made anew when
//! its record has a new generation. Bound: one entry for each peer record, and those that requests
//! keep.

use nginx_sys::ngx_str_t;
use pincer_core::zone::{NAME_MAX, Peer, SOCKADDR_MAX};
use std::rc::Rc;

/// What nginx needs of a peer. Never changes once made.
pub(crate) struct Address {
    generation: u32,
    pub(crate) sockaddr: [u64; SOCKADDR_MAX / 8],
    pub(crate) sockaddr_len: u32,
    pub(crate) name: ngx_str_t,
    name_bytes: [u8; NAME_MAX],
}

/// The addresses of an upstream's peers, by the peer's index in the upstream.
#[derive(Default)]
pub(crate) struct Addresses(Vec<Option<Rc<Address>>>);

impl Addresses {
    /// The address of `peer`, whose slot the caller holds, so that its record keeps this
    /// generation.
    pub(crate) fn get(&mut self, index: u8, generation: u32, peer: &Peer) -> Rc<Address> {
        let index = usize::from(index);
        if let Some(Some(address)) = self.0.get(index)
            && address.generation == generation
        {
            return Rc::clone(address);
        }
        let made = make(generation, peer);
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        if let Some(entry) = self.0.get_mut(index) {
            *entry = Some(Rc::clone(&made));
        }
        made
    }
}

#[cold]
fn make(generation: u32, peer: &Peer) -> Rc<Address> {
    let (mut sockaddr, mut name_bytes) = ([0; SOCKADDR_MAX], [0; NAME_MAX]);
    let sockaddr_len = u32::try_from(peer.sockaddr(&mut sockaddr).len()).unwrap_or(0);
    let name_len = peer.name(&mut name_bytes).len();
    let mut words = [0_u64; SOCKADDR_MAX / 8];
    for (word, bytes) in words.iter_mut().zip(sockaddr.chunks_exact(8)) {
        *word = bytes.try_into().map_or(0, u64::from_ne_bytes);
    }
    let name = ngx_str_t { len: name_len, data: std::ptr::null_mut() };
    let mut made = Rc::new(Address { generation, sockaddr: words, sockaddr_len, name, name_bytes });
    // The only reference so far; the bytes stay where they are for as long as the entry.
    if let Some(address) = Rc::get_mut(&mut made) {
        address.name.data = address.name_bytes.as_mut_ptr();
    }
    made
}
