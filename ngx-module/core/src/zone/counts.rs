//! The numbers of records that the zone's header stores: one list.
//!
//! They are what `parts.rs` makes the size of each part from. Pure. Bound: each fits 32 bits.

macro_rules! counts {
    ($($count:ident),* $(,)?) => {
        /// The numbers of records that the header stores; those of all parts follow from them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(super) struct Counts {
            $(pub $count: usize,)*
        }

        impl Counts {
            /// How many numbers these are.
            pub const LEN: usize = [$(stringify!($count)),*].len();

            /// All of them, in the order of the list.
            pub fn to_array(self) -> [usize; Self::LEN] {
                [$(self.$count),*]
            }

            /// From what [`Counts::to_array`] gave.
            pub fn from_array([$($count),*]: [usize; Self::LEN]) -> Self {
                Self { $($count),* }
            }
        }
    };
}

counts! { upstreams, peers, classes, rate_sets, seat_sets }
