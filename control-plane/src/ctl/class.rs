//! The commands about classes and keys: their requests, and their lists.

use std::time::SystemTime;

use pincer_proto::v1;

use super::{
    args::{ClassSettingsArgs, ClassVerb, KeyVerb, Output},
    failure::Failure,
    output::print,
    pages::{Client, PAGE_SIZE},
    request::Change,
    show,
};
use crate::names;

fn name(class: &str) -> Result<String, Failure> {
    names::check_class(class)?;
    Ok(names::class_name(class))
}

/// Reads a command about a class; `None` if it changes nothing.
pub fn prepare(verb: &ClassVerb) -> Result<Option<Change>, Failure> {
    Ok(match verb {
        ClassVerb::List | ClassVerb::Get { .. } => None,
        ClassVerb::Set { class, settings, etag } => Some(set(class, settings, etag.as_deref())?),
        ClassVerb::Delete { class, etag } => Some(Change::DeleteClass(v1::DeleteClassRequest {
            name: name(class)?,
            etag: etag.clone().unwrap_or_default(),
            validate_only: false,
        })),
    })
}

fn set(class: &str, given: &ClassSettingsArgs, etag: Option<&str>) -> Result<Change, Failure> {
    let (settings, fields) = given.read();
    if fields.is_empty() {
        return Err(Failure::Usage("say what to set: --rate, --burst and so on, see class set --help"));
    }
    let class = v1::Class {
        name: name(class)?,
        settings: Some(settings.to_proto()),
        etag: etag.unwrap_or_default().to_owned(),
        ..v1::Class::default()
    };
    let paths = fields.iter().map(|field| format!("settings.{field}")).collect();
    Ok(Change::UpdateClass(v1::UpdateClassRequest {
        class: Some(class),
        update_mask: Some(prost_types::FieldMask { paths }),
        validate_only: false,
        allow_missing: true,
    }))
}

/// Prints what was asked for, if it changes nothing.
pub async fn query(client: &mut Client, verb: &ClassVerb, output: Output) -> Result<(), Failure> {
    match verb {
        ClassVerb::List => print(output, &show::Classes::from(list(client).await?)),
        ClassVerb::Get { class } => {
            let class = client.get_class(v1::GetClassRequest { name: name(class)? }).await?.into_inner();
            print(output, &show::Class::from(&class))
        }
        ClassVerb::Set { .. } | ClassVerb::Delete { .. } => Err(Failure::Usage("nothing to do")),
    }
}

async fn list(client: &mut Client) -> Result<Vec<v1::Class>, Failure> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListClassesRequest { page_size: PAGE_SIZE, page_token };
        let page = client.list_classes(request).await?.into_inner();
        all.extend(page.classes);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// The warning for a new key whose class no node declares and no operator has added. `None` also if
/// the classes cannot be listed: the command does not fail for a warning.
pub async fn warning_of_unknown(client: &mut Client, class: &str) -> Option<String> {
    let known = list(client).await.ok()?;
    let is_it =
        |known: &v1::Class| known.name == names::class_name(class) && (known.added || known.declaring_nodes > 0);
    (!known.iter().any(is_it)).then(|| {
        format!(
            "no node declares the class \"{class}\" and none was set by that name: as long as that is so the key's requests are of the class \"default\", if there is one"
        )
    })
}

/// Reads a command about a key; `None` if it changes nothing.
pub fn prepare_key(verb: &KeyVerb) -> Result<Option<Change>, Failure> {
    let too_long = |_| Failure::Usage("the time is too long");
    Ok(match verb {
        KeyVerb::List => None,
        KeyVerb::Create { tenant, class, id, cidrs, expires } => {
            let end = expires.map(|time| SystemTime::now() + time).map(prost_types::Timestamp::from);
            let key = v1::Key {
                tenant: tenant.clone(),
                class: class.clone(),
                cidrs: cidrs.clone(),
                expire_time: end,
                ..v1::Key::default()
            };
            let key_id = id.clone().unwrap_or_default();
            Some(Change::CreateKey(v1::CreateKeyRequest { key_id, key: Some(key), validate_only: false }))
        }
        KeyVerb::Rotate { id, overlap, etag } => Some(Change::RotateKey(v1::RotateKeyRequest {
            name: names::key_name(id),
            overlap: overlap.map(prost_types::Duration::try_from).transpose().map_err(too_long)?,
            etag: etag.clone().unwrap_or_default(),
            validate_only: false,
        })),
        KeyVerb::Revoke { id, etag } => Some(Change::RevokeKey(v1::RevokeKeyRequest {
            name: names::key_name(id),
            etag: etag.clone().unwrap_or_default(),
            validate_only: false,
        })),
        KeyVerb::Delete { id, etag } => Some(Change::DeleteKey(v1::DeleteKeyRequest {
            name: names::key_name(id),
            etag: etag.clone().unwrap_or_default(),
            validate_only: false,
        })),
    })
}

/// Prints all keys.
pub async fn list_keys(client: &mut Client, output: Output) -> Result<(), Failure> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListKeysRequest { page_size: PAGE_SIZE, page_token };
        let page = client.list_keys(request).await?.into_inner();
        all.extend(page.keys);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return print(output, &show::Keys::from(all));
        }
    }
}
