//! Who may have written a file: whether nobody but root and one user can change it, or put another
//! in its place.
//!
//! Judges what the system says of one object at a time: the file, the folder that holds it, each
//! folder above that, and each symbolic link on the way. A folder above may be writable by others
//! only where its sticky bit keeps them from renaming what is not theirs, as in `/tmp`; the folder
//! that holds the file may not, since others could put a file there first. An access control list
//! that lets others write shows in the mode's bits of the group. Pure. Cost: a few comparisons.

use core::fmt;

/// Write permission of the group and of others.
const OTHERS_WRITE: u32 = 0o022;

/// The sticky bit.
const STICKY: u32 = 0o1000;

/// Permissions and the bits above them: the part of a mode that is shown.
const MODE_BITS: u32 = 0o7777;

/// The users whose files are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// This one and root.
    pub user: u32,
}

/// What an object is in the path of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file itself.
    File,
    /// The folder that holds it.
    Folder,
    /// A folder above that one.
    Above,
    /// A symbolic link on the way to the folder.
    Link,
}

/// Why a file is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// Others may write there.
    Writable {
        /// Where.
        place: Place,
        /// The mode of what is there.
        mode: u32,
    },
    /// It is another user's.
    Foreign {
        /// Where.
        place: Place,
        /// Whose it is.
        user: u32,
    },
    /// The file is a symbolic link.
    Link,
}

const PLACES: [Place; 4] = [Place::File, Place::Folder, Place::Above, Place::Link];
const WRITABLE: u64 = 1;
const FOREIGN: u64 = 2;
const LINK: u64 = 3;

impl Trusted {
    fn is(self, user: u32) -> bool {
        user == 0 || user == self.user
    }

    /// Judges an object by its owner and mode.
    pub fn judge(self, place: Place, user: u32, mode: u32) -> Result<(), Distrust> {
        if !self.is(user) {
            return Err(Distrust::Foreign { place, user });
        }
        let is_open = mode & OTHERS_WRITE != 0;
        let is_harmless = match place {
            Place::File | Place::Folder => false,
            Place::Above => mode & STICKY != 0,
            // Its mode says nothing: it cannot be written, only replaced.
            Place::Link => true,
        };
        if is_open && !is_harmless {
            return Err(Distrust::Writable { place, mode: mode & MODE_BITS });
        }
        Ok(())
    }
}

impl Distrust {
    /// As one word, which is never 0.
    pub fn pack(self) -> u64 {
        let word = |kind: u64, place: Place, value: u32| {
            let place = PLACES.iter().position(|&other| other == place).unwrap_or(0) as u64;
            u64::from(value) << 32 | place << 8 | kind
        };
        match self {
            Self::Writable { place, mode } => word(WRITABLE, place, mode),
            Self::Foreign { place, user } => word(FOREIGN, place, user),
            Self::Link => word(LINK, Place::File, 0),
        }
    }

    /// What [`Distrust::pack`] made; `None` for 0 and for what it never makes.
    pub fn unpack(word: u64) -> Option<Self> {
        let value = u32::try_from(word >> 32).ok()?;
        let place = *PLACES.get(usize::try_from(word >> 8 & 0xff_ffff).ok()?)?;
        match word & 0xff {
            WRITABLE => Some(Self::Writable { place, mode: value }),
            FOREIGN => Some(Self::Foreign { place, user: value }),
            LINK => Some(Self::Link),
            _ => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "the file",
            Self::Folder => "the file's folder",
            Self::Above => "a folder above the file's",
            Self::Link => "a symbolic link on the way to the file",
        })
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writable { place, mode } => {
                let need = match place {
                    Place::File => "0600 is needed",
                    Place::Folder => "0700 is needed",
                    Place::Above | Place::Link => "0755 or the sticky bit is needed",
                };
                write!(f, "mode {mode:04o} lets others write to {place}, {need}")
            }
            Self::Foreign { place, user } => {
                write!(f, "user {user} owns {place}, the user that uses it or root is needed as owner")
            }
            Self::Link => f.write_str("the file is a symbolic link, a regular file is needed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRUSTED: Trusted = Trusted { user: 33 };
    const FOLDER: u32 = 0o040_000;

    #[test]
    fn a_file_or_its_folder_that_others_can_write_is_refused_whatever_the_sticky_bit() {
        for place in [Place::File, Place::Folder] {
            for mode in [0o600, 0o644, 0o700, 0o755, 0o1700, FOLDER | 0o755] {
                assert_eq!(TRUSTED.judge(place, 33, mode), Ok(()), "{mode:o}");
            }
            for mode in [0o620, 0o602, 0o777, 0o1777, 0o770, FOLDER | 0o2775] {
                let mode_shown = mode & 0o7777;
                assert_eq!(TRUSTED.judge(place, 0, mode), Err(Distrust::Writable { place, mode: mode_shown }));
            }
        }
    }

    #[test]
    fn a_folder_above_may_be_writable_with_the_sticky_bit_only() {
        assert_eq!(TRUSTED.judge(Place::Above, 0, 0o1777), Ok(()));
        assert_eq!(TRUSTED.judge(Place::Above, 0, 0o755), Ok(()));
        assert!(TRUSTED.judge(Place::Above, 0, 0o777).is_err());
        assert!(TRUSTED.judge(Place::Above, 0, 0o775).is_err());
        // The owner of a sticky folder may rename everything in it.
        assert!(TRUSTED.judge(Place::Above, 1000, 0o1777).is_err());
    }

    #[test]
    fn a_link_is_judged_by_its_owner() {
        assert_eq!(TRUSTED.judge(Place::Link, 33, 0o777), Ok(()));
        assert!(TRUSTED.judge(Place::Link, 34, 0o777).is_err());
    }

    #[test]
    fn a_reason_names_value_place_and_need() {
        let reason = Distrust::Writable { place: Place::Folder, mode: 0o777 }.to_string();
        assert_eq!(reason, "mode 0777 lets others write to the file's folder, 0700 is needed");
        let reason = Distrust::Foreign { place: Place::Above, user: 1000 }.to_string();
        assert_eq!(
            reason,
            "user 1000 owns a folder above the file's, the user that uses it or root is needed as owner"
        );
    }

    proptest! {
        #[test]
        fn nobody_but_the_two_is_believed(user in any::<u32>(), mode in any::<u32>(), place in 0..4_usize) {
            let place = PLACES[place];
            let verdict = TRUSTED.judge(place, user, mode);
            prop_assert_eq!(user != 0 && user != 33, matches!(verdict, Err(Distrust::Foreign { .. })));
            if let Err(distrust) = verdict {
                prop_assert_ne!(distrust.pack(), 0);
                prop_assert_eq!(Distrust::unpack(distrust.pack()), Some(distrust));
            }
        }

        #[test]
        fn any_word_is_unpacked_without_fault(word in any::<u64>()) {
            if let Some(distrust) = Distrust::unpack(word) {
                prop_assert_eq!(Distrust::unpack(distrust.pack()), Some(distrust));
            }
        }
    }
    #[test]
    fn a_link_in_the_files_place_is_a_word_too() {
        assert_eq!(Distrust::unpack(Distrust::Link.pack()), Some(Distrust::Link));
        assert_eq!(Distrust::unpack(0), None);
    }
}
