//! Rate classes, as operators read and change them: translates between the wire and `classes`, and
//! decides nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use pincer_proto::{limits, v1};
use prost_types::FieldMask;
use tonic::Status;

use super::{
    audit,
    error::{bad_name, invalid, not_found},
    page::Page,
};
use crate::{
    classes::{
        self, Fault, Mask, Record, Settings,
        plan::{Desired, Op},
    },
    declared::Declared,
    fleet::Fleet,
    names, plan,
    plane::Plane,
    refusal,
};

/// Paths of a mask at most.
const MASK_PATHS_MAX: usize = 64;

/// Usage of each class, over all connected nodes.
type Sums = BTreeMap<String, v1::ClassSummary>;

fn sums(fleet: &Fleet) -> Sums {
    let mut sums: BTreeMap<String, (v1::ClassSummary, Duration)> = BTreeMap::new();
    for class in fleet.nodes().values().flat_map(|node| node.instances.values()).flat_map(|i| &i.classes) {
        let (sum, queue_time) = sums.entry(class.name.clone()).or_default();
        sum.nodes += 1;
        for (total, more) in [
            (&mut sum.in_flight, class.in_flight),
            (&mut sum.waiting, class.waiting),
            (&mut sum.passed, class.passed),
            (&mut sum.delayed, class.delayed),
            (&mut sum.rejected, class.rejected),
            (&mut sum.rejected_dry_run, class.rejected_dry_run),
            (&mut sum.bytes, class.bytes),
            (&mut sum.queued, class.queued),
        ] {
            *total = total.saturating_add(more);
        }
        let more = class.queue_time.and_then(|time| Duration::try_from(time).ok()).unwrap_or_default();
        *queue_time = queue_time.saturating_add(more);
    }
    let mean = |(sum, total): (v1::ClassSummary, Duration)| {
        let nanos = (sum.queued > 0).then(|| total.as_nanos() / u128::from(sum.queued));
        let mean = nanos.and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos);
        v1::ClassSummary { queue_time: mean.and_then(|mean| mean.try_into().ok()), ..sum }
    };
    sums.into_iter().map(|(name, sum)| (name, mean(sum))).collect()
}

fn render(name: &str, declared: &Declared, record: Option<&Record>, sums: &Sums) -> v1::Class {
    let declared = declared.classes.get(name);
    let settings = record.map(|r| r.settings).unwrap_or_default();
    v1::Class {
        name: names::class_name(name),
        settings: Some(settings.to_proto()),
        etag: refusal::etag_of(record.map_or(0, |r| r.revision)),
        revision: record.map_or(0, |r| r.revision),
        added: record.is_some_and(|r| r.added),
        declared: declared.map(|d| d.settings.to_proto()),
        declaring_nodes: declared.map_or(0, |d| d.nodes),
        effective: Some(settings.over(declared.map(|d| d.settings)).to_proto()),
        stats: sums.get(name).copied(),
    }
}

/// ListClasses.
pub fn list(plane: &Arc<Plane>, request: v1::ListClassesRequest) -> Result<v1::ListClassesResponse, Status> {
    let page = Page::parse("classes", request.page_size, &request.page_token)?;
    let (declared, sums) = plane.with_fleet(|fleet| (fleet.declared(), sums(fleet)));
    let records = &plane.current().config.classes;
    let names: BTreeSet<&str> = declared.classes.keys().chain(records.keys()).map(String::as_str).collect();
    let (classes, next_page_token) = page
        .take(names.into_iter().map(|name| (name, ())), |name, ()| render(name, &declared, records.get(name), &sums));
    Ok(v1::ListClassesResponse { classes, next_page_token })
}

/// GetClass.
pub fn get(plane: &Arc<Plane>, request: v1::GetClassRequest) -> Result<v1::Class, Status> {
    let name = names::parse_class_name(&request.name).map_err(bad_name("name"))?;
    let (declared, sums) = plane.with_fleet(|fleet| (fleet.declared(), sums(fleet)));
    let current = plane.current();
    let record = current.config.classes.get(&name);
    if record.is_none() && !declared.classes.contains_key(&name) {
        return Err(not_found(&request.name));
    }
    Ok(render(&name, &declared, record, &sums))
}

/// CreateClass.
pub async fn create(plane: &Arc<Plane>, request: v1::CreateClassRequest) -> Result<v1::Class, Status> {
    names::check_class(&request.class_id).map_err(bad_name("class_id"))?;
    let settings = read("class.settings", request.class.and_then(|class| class.settings))?;
    let op = Op::Create { name: request.class_id.clone(), settings };
    change(plane, &request.class_id, op, request.validate_only).await
}

/// UpdateClass.
pub async fn update(plane: &Arc<Plane>, request: v1::UpdateClassRequest) -> Result<v1::Class, Status> {
    let class = request.class.ok_or_else(|| invalid("class", "is missing"))?;
    let name = names::parse_class_name(&class.name).map_err(bad_name("class.name"))?;
    let settings = read("class.settings", class.settings)?;
    let mask = mask(request.update_mask, &settings)?;
    let (etag, allow_missing) = (given(class.etag), request.allow_missing);
    let op = Op::Update { name: name.clone(), settings, mask, etag, allow_missing };
    change(plane, &name, op, request.validate_only).await
}

/// DeleteClass.
pub async fn delete(plane: &Arc<Plane>, request: v1::DeleteClassRequest) -> Result<v1::DeleteClassResponse, Status> {
    let name = names::parse_class_name(&request.name).map_err(bad_name("name"))?;
    let op = plan::Op::Class(Op::Delete { name, etag: given(request.etag) });
    let changed = audit::change(plane, op, request.validate_only).await?;
    Ok(v1::DeleteClassResponse { revision: changed.revision })
}

/// Changes one class and returns it.
async fn change(plane: &Arc<Plane>, name: &str, op: Op, validate_only: bool) -> Result<v1::Class, Status> {
    let changed = audit::change(plane, plan::Op::Class(op), validate_only).await?;
    let (declared, sums) = plane.with_fleet(|fleet| (fleet.declared(), sums(fleet)));
    // A class that no node declares has no record after its last setting was unset. It is returned
    // without settings.
    let gone = Record { revision: changed.revision, ..Record::default() };
    let record = changed.config.classes.get(name).copied().unwrap_or(gone);
    Ok(render(name, &declared, Some(&record), &sums))
}

/// Reads the classes of ApplyUpstreams.
pub fn desired(given_classes: v1::ApplyClasses) -> Result<Op, Status> {
    let count = given_classes.classes.len();
    if count > limits::CLASSES_MAX {
        let max = limits::CLASSES_MAX;
        return Err(invalid("classes.classes", format!("{count} entries, at most {max} are allowed")));
    }
    let class = |(n, class): (usize, v1::ApplyClass)| {
        let field = format!("classes.classes[{n}]");
        Ok(Desired {
            name: names::parse_class_name(&class.name).map_err(bad_name(&format!("{field}.name")))?,
            settings: read(&format!("{field}.settings"), class.settings)?,
            etag: given(class.etag),
        })
    };
    Ok(Op::Apply(given_classes.classes.into_iter().enumerate().map(class).collect::<Result<_, Status>>()?))
}

fn read(prefix: &str, settings: Option<v1::ClassSettings>) -> Result<Settings, Status> {
    Settings::from_proto(settings)
        .map_err(|fault: Fault| invalid(&format!("{prefix}.{}", fault.field), fault.to_string()))
}

fn given(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

/// The fields to change. Without a mask these are the fields that are set.
fn mask(mask: Option<FieldMask>, settings: &Settings) -> Result<Mask, Status> {
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    if paths.is_empty() {
        return Ok(Mask::of(settings));
    }
    if paths.len() > MASK_PATHS_MAX {
        return Err(invalid("update_mask", format!("{} paths, at most {MASK_PATHS_MAX} are allowed", paths.len())));
    }
    let mut mask = Mask::default();
    for path in &paths {
        let is_known = match path.as_str() {
            "*" | "settings" => {
                mask = Mask::ALL;
                true
            }
            path => path.strip_prefix("settings.").is_some_and(|field| mask.add(field)),
        };
        if !is_known {
            let (path, fields) = (names::cut(path, 100), classes::FIELDS.join(", "));
            return Err(invalid(
                "update_mask",
                format!("{path:?} is not *, settings or settings. and one of {fields}"),
            ));
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask_of(paths: &[&str]) -> Result<Mask, Status> {
        let settings = Settings { burst: Some(1), ..Settings::default() };
        mask(Some(FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() }), &settings)
    }

    #[test]
    fn a_mask_names_fields_of_the_settings_or_all() {
        let mut burst = Mask::default();
        assert!(burst.add("burst"));
        assert_eq!(mask_of(&[]).unwrap(), burst, "without a mask those that are set");
        assert_eq!(mask_of(&["settings.burst"]).unwrap(), burst);
        assert_eq!((mask_of(&["*"]).unwrap(), mask_of(&["settings"]).unwrap()), (Mask::ALL, Mask::ALL));
        for path in ["burst", "settings.", "settings.Burst", "settings.burst.x", "name", "", "added"] {
            assert!(mask_of(&[path]).is_err(), "{path:?} was taken");
        }
        assert!(mask_of(&["settings.burst"; 65]).is_err());
    }
}
