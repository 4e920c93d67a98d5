//! Makes, changes and removes classes: what nginx.conf declares, at the start and at every reload,
//! and what the control plane lays over it.
//!
//! A class is there as long as nginx.conf declares it or the control plane has added it; one that
//! only older configurations declare stays for their workers until [`Zone::retire`]. All callers
//! are serialised by the caller's lock; everything is checked before anything changes, and every
//! single store leaves the zone valid. Shares that are set are promises and must not pass 100 %
//! together; classes that set none divide what is left, up to [`SHARE_DEFAULT`] each. Cost: a walk
//! over the records. Bound: [`CLASSES_MAX`].

use core::sync::atomic::Ordering::SeqCst;

use super::class::{CLASSES_MAX, Class, ClassIdx};
use super::configure::check_name;
use super::error::{OverlayError, ZoneError, printable};
use super::{Layout, Zone};
use crate::limit::{ClassSettings, SHARE_DEFAULT, SHARE_MAX};
use crate::time::MonoNs;

/// Classes of one revision, those of other nodes included.
pub(super) const OVERLAY_CLASSES_MAX: usize = 256;

/// A class as nginx.conf declares it.
#[derive(Clone, Copy, Debug)]
pub struct ClassSpec<'a> {
    /// Its name, 1 to [`super::NAME_MAX`] bytes.
    pub name: &'a [u8],
    /// What is said of it.
    pub settings: ClassSettings,
}

/// What a revision says of one class.
#[derive(Clone, Copy, Debug)]
pub struct ClassOverlay<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// What is said of it; fields left out are nginx.conf's.
    pub settings: ClassSettings,
    /// Add it where nginx.conf does not declare it. Without it an unknown name is counted and
    /// ignored.
    pub added: bool,
}

/// Whether classes could be declared so in a zone with room: for the check of a configuration,
/// before there is a zone.
pub fn check_classes(declared: &[ClassSpec<'_>]) -> Result<(), ZoneError> {
    if declared.len() > CLASSES_MAX {
        return Err(ZoneError::TooManyClasses { have: declared.len(), max: CLASSES_MAX });
    }
    for (index, spec) in declared.iter().enumerate() {
        check_settings(spec.name, &spec.settings)?;
        if declared[..index].iter().any(|earlier| earlier.name == spec.name) {
            return Err(ZoneError::DuplicateClass { class: printable(spec.name) });
        }
    }
    check_shares(declared.iter().map(|spec| spec.settings.share))
}

fn check_settings(name: &[u8], settings: &ClassSettings) -> Result<(), ZoneError> {
    check_name("a class", name)?;
    let refuse = |(what, value, max)| ZoneError::ClassRange { what, value, max, class: printable(name) };
    settings.check().map_err(refuse)
}

fn check_shares(shares: impl Iterator<Item = Option<u8>>) -> Result<(), ZoneError> {
    let sum = shares.flatten().map(u32::from).sum();
    if sum <= SHARE_MAX.into() { Ok(()) } else { Err(ZoneError::ShareSum { sum }) }
}

impl<'z> Zone<'z> {
    /// Finds or creates the class `name` and marks it as part of the newest configuration. Its
    /// settings stay until [`Zone::class_configure`].
    ///
    /// A class that only configurations had which no worker runs any more makes room when none is
    /// free.
    pub fn class_reserve(&self, name: &[u8]) -> Result<ClassIdx, ZoneError> {
        check_name("a class", name)?;
        let (at, class) = match self.class_named(name) {
            Some(found) => found,
            None => self.class_make(name)?,
        };
        class.generation.store(self.header.generation(), SeqCst);
        class.declared.store(1, SeqCst);
        Ok(at)
    }

    /// Makes `settings` what nginx.conf says of the class `c`; what the control plane says stays
    /// above it.
    ///
    /// On an error nothing has changed. Check all of a configuration by [`check_classes`] first:
    /// shares are not summed here; should those of both layers pass 100 %, all are lowered in
    /// proportion.
    pub fn class_configure(&self, c: ClassIdx, settings: &ClassSettings, now: MonoNs) -> Result<(), ZoneError> {
        let class = self.class(c).filter(|class| class.is_used()).ok_or(ZoneError::NoSuchClass { index: c.0 })?;
        check_settings(&class.name.to_vec(), settings)?;
        class.configured.store(settings);
        self.publish_classes(now);
        Ok(())
    }

    /// Class records that are free, or will be after [`Zone::retire`].
    pub(super) fn classes_free(&self) -> usize {
        let free = |class: &&Class| class.is_free() || (class.is_used() && self.is_class_retired(class));
        self.classes.iter().filter(free).count()
    }

    /// Frees the classes that neither a configuration which runs nor the control plane has.
    pub(super) fn retire_classes(&self, now: MonoNs) {
        for class in self.classes.iter().filter(|class| class.is_used()) {
            if class.added.load(SeqCst) != 0 {
                // Declared no more: the control plane's alone.
                if self.is_older(class) && class.declared.swap(0, SeqCst) != 0 {
                    class.configured.store(&ClassSettings::default());
                }
            } else if self.is_class_retired(class) {
                class.vacate();
            }
        }
        self.publish_classes(now);
    }

    /// Checks what a revision says of classes; how many records it needs on top.
    pub(super) fn classes_check(&self, classes: &[ClassOverlay<'_>]) -> Result<(), OverlayError> {
        if classes.len() > OVERLAY_CLASSES_MAX {
            return Err(OverlayError::TooManyClasses { have: classes.len(), max: OVERLAY_CLASSES_MAX });
        }
        for (index, named) in classes.iter().enumerate() {
            check_settings(named.name, &named.settings)?;
            if classes[..index].iter().any(|earlier| earlier.name == named.name) {
                return Err(ZoneError::DuplicateClass { class: printable(named.name) }.into());
            }
        }
        let fresh = classes.iter().filter(|named| named.added && self.class_named(named.name).is_none());
        let leaving = |class: &&Class| class.is_used() && !self.stays(class, classes) && is_idle(class);
        let (need, free) = (fresh.clone().count(), self.classes_free() + self.classes.iter().filter(leaving).count());
        if let Some(first) = fresh.clone().next().filter(|_| need > free) {
            return Err(self.classes_full(first.name, need - free).into());
        }
        let generation = self.header.generation();
        let staying = self.classes.iter().filter(|class| class.is_used() && self.stays(class, classes));
        let of_staying =
            staying.filter(|class| class.exists_for(generation) || said_of(classes, class).is_some()).map(|class| {
                said_of(classes, class)
                    .map_or(ClassSettings::default(), |named| named.settings)
                    .over(&class.configured.load())
                    .share
            });
        check_shares(of_staying.chain(fresh.map(|named| named.settings.share)))?;
        Ok(())
    }

    /// Puts into force what [`Zone::classes_check`] has let pass.
    pub(super) fn classes_apply(&self, classes: &[ClassOverlay<'_>], now: MonoNs) {
        for class in self.classes.iter().filter(|class| class.is_used()) {
            let named = said_of(classes, class);
            class.live.store(&named.map_or(ClassSettings::default(), |named| named.settings));
            if !self.stays(class, classes) {
                class.vacate();
            } else {
                class.added.store(named.is_some_and(|named| named.added).into(), SeqCst);
            }
        }
        for named in classes.iter().filter(|named| named.added && self.class_named(named.name).is_none()) {
            // There is room: it was counted under the same lock.
            let Ok((_, class)) = self.class_make(named.name) else { continue };
            class.live.store(&named.settings);
            class.added.store(1, SeqCst);
        }
        self.publish_classes(now);
    }

    /// Names of a revision that this zone has no class for.
    pub(super) fn classes_unknown(&self, classes: &[ClassOverlay<'_>]) -> u64 {
        classes.iter().filter(|named| self.class_named(named.name).is_none()).count() as u64
    }

    /// Whether a class is there after `classes` is applied.
    fn stays(&self, class: &Class, classes: &[ClassOverlay<'_>]) -> bool {
        let added = said_of(classes, class).is_some_and(|named| named.added);
        added || (class.declared.load(SeqCst) != 0 && !self.is_older(class))
    }

    /// Whether only configurations that no worker runs declare it.
    fn is_older(&self, class: &Class) -> bool {
        let newest = self.header.generation();
        let oldest = self.oldest_generation().unwrap_or(newest).min(newest);
        class.generation.load(SeqCst) < oldest
    }

    fn is_class_retired(&self, class: &Class) -> bool {
        class.added.load(SeqCst) == 0 && self.is_older(class)
    }

    /// The record in use with this name, whatever has it.
    fn class_named(&self, name: &[u8]) -> Option<(ClassIdx, &'z Class)> {
        let found = (0..).zip(self.classes).find(|(_, class)| class.is_used() && class.name.equals(name));
        found.map(|(index, class)| (ClassIdx(index), class))
    }

    fn class_make(&self, name: &[u8]) -> Result<(ClassIdx, &'z Class), ZoneError> {
        let all = || (0..).zip(self.classes).map(|(index, class)| (ClassIdx(index), class));
        let retired = |class: &Class| class.is_used() && self.is_class_retired(class) && is_idle(class);
        let free = all().find(|(_, class)| class.is_free()).or_else(|| all().find(|(_, class)| retired(class)));
        let (at, class) = free.ok_or_else(|| self.classes_full(name, 1))?;
        class.vacate();
        class.occupy(name);
        Ok((at, class))
    }

    fn classes_full(&self, name: &[u8], more: usize) -> ZoneError {
        let have = self.classes.len();
        if have + more > CLASSES_MAX {
            return ZoneError::TooManyClasses { have: have + more, max: CLASSES_MAX };
        }
        let need_bytes = Layout::bytes_for(self.upstreams.len(), self.peers.len(), have + more);
        ZoneError::ClassesFull { name: printable(name), have, need_bytes }
    }

    /// Brings what is in force up to date with the layers, for all classes: shares depend on each
    /// other.
    fn publish_classes(&self, now: MonoNs) {
        let generation = self.header.generation();
        let said: Vec<_> = self.classes.iter().filter(|class| class.is_used()).collect();
        let said: Vec<_> =
            said.into_iter().map(|class| (class, class.live.load().over(&class.configured.load()))).collect();
        let counted: Vec<_> = said.iter().filter(|(class, _)| class.exists_for(generation)).collect();
        let set: u32 = counted.iter().filter_map(|(_, settings)| settings.share).map(u32::from).sum();
        let others = counted.iter().filter(|(_, settings)| settings.share.is_none()).count().max(1);
        let left = u32::from(SHARE_MAX).saturating_sub(set) / u32::try_from(others).unwrap_or(u32::MAX);
        let default = u8::try_from(left).unwrap_or(u8::MAX).min(SHARE_DEFAULT);
        for (class, settings) in said {
            let mut values = settings.effective(default);
            if set > SHARE_MAX.into() {
                values.share = u8::try_from(u32::from(values.share) * u32::from(SHARE_MAX) / set).unwrap_or(0);
            }
            class.publish(&values, now);
        }
    }
}

fn said_of<'o, 'a>(classes: &'o [ClassOverlay<'a>], class: &Class) -> Option<&'o ClassOverlay<'a>> {
    classes.iter().find(|named| class.name.equals(named.name))
}

fn is_idle(class: &Class) -> bool {
    class.in_flight() == 0 && class.waiting() == 0
}
