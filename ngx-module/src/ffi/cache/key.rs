//! `$pincer_cache_key`: everything that tells one request's response from another's, in one key of
//! fixed length.
//!
//! Method, scheme, the server block's name and the address it listens on (a client's Host may name
//! another), host (as nginx understood it and as the client sent it), the URI as it came and as it
//! is now with its arguments, the named location if the request is in one, the upstream it goes to
//! (with the scheme, and the URI if a variable names it), content type and coding, class scope, and
//! the body's digest with the way it was made; each with its length, hashed. A request without a
//! digest has a token in that place, and so a key of its own; so has one that nobody has passed on
//! yet, as in the rewrite phase. After `error_page` or a rewrite the key is another one: the
//! response comes from elsewhere. Fields that rarely change within a location are hashed once and
//! cached ([`KeyContext`]).

use super::conf::CacheModule;
use super::passed;
use crate::ffi::base::{location, nginx};
use crate::ffi::body::conf::{BodyModule, Location};
use crate::ffi::body::head;
use crate::ffi::body::identity::{self, Identity};
use crate::ffi::limit::who;
use arrayvec::ArrayVec;
use nginx_sys::ngx_http_request_t;
use ngx::http::{HttpModuleLocationConf as _, HttpModuleServerConf as _, NgxHttpCoreModule};
use pincer_core::digest::{KeyContext, abbreviated, normal_content_type};
use std::borrow::Cow;

/// Of an address as text: the path of a unix socket with `unix:` before it.
const ADDRESS_BYTES_MAX: usize = 128;
const HOST: &[u8] = b"host";
/// In the place of an algorithm's or a form's number.
const NONE: u8 = u8::MAX;

/// The key of `r`; `None` when out of memory.
///
/// # Safety
/// `r` is live.
pub(crate) unsafe fn of(r: *mut ngx_http_request_t) -> Option<[u8; 32]> {
    // SAFETY: as the caller vouches.
    let (passed, identity) = unsafe {
        let passed = passed::of(r);
        let identity = if passed.is_some() { identity::identity(r) } else { identity::token(r) };
        (passed.unwrap_or_default(), identity?)
    };
    // SAFETY: as the caller vouches.
    let (place, text, [host, content_type, content_encoding], class) =
        unsafe { (Place::of(r), Text::of(r), headers(r), who::class_text(r).unwrap_or_default()) };
    let (form, digest, content_type): (u8, &[u8], [&[u8]; 2]) = match &identity {
        Identity::Digest(digest) => {
            let hashed = digest.hashed();
            (number(hashed.index()), digest.as_bytes(), normal_content_type(&content_type, hashed))
        }
        Identity::Token(token) => (NONE, token, [&content_type, &[]]),
    };
    let [port_high, port_low] = passed.port.to_be_bytes();
    let ([server_high, server_low], server) = abbreviated(text.server, &host);
    let ([uri_high, uri_low], uri) = abbreviated(text.uri, text.unparsed_uri);
    // Fields that rarely change within a location.
    let stable_fields = [
        &[place.is_secure, place.algorithm, port_high, port_low, server_high, server_low][..],
        text.method,
        place.server_name,
        &place.listening,
        &host,
        server,
        place.named,
        passed.schema,
        passed.host,
        content_type[0],
        content_type[1],
        &content_encoding,
    ];
    let fields = [
        &[form, uri_high, uri_low][..],
        digest,
        text.unparsed_uri,
        uri,
        text.args,
        passed.uri,
        // The class scope: what an upstream is told of the caller's class may change its response.
        class.as_bytes(),
    ];
    // SAFETY: as the caller vouches.
    let location = unsafe { CacheModule::location_conf(&*r) };
    let key = match location.map(|location| location.key_context.try_borrow_mut()) {
        Some(Ok(mut context)) => context.key(&stable_fields, &fields),
        _ => KeyContext::default().key(&stable_fields, &fields),
    };
    Some(key)
}

/// Where a request came to.
struct Place<'a> {
    /// 1 over TLS.
    is_secure: u8,
    /// How the location has bodies hashed.
    algorithm: u8,
    server_name: &'a [u8],
    listening: ArrayVec<u8, ADDRESS_BYTES_MAX>,
    /// The named location, if it is in one.
    named: &'a [u8],
}

impl Place<'_> {
    /// # Safety
    /// `r` is live, and outlives the value.
    unsafe fn of(r: *const ngx_http_request_t) -> Self {
        // SAFETY: as the caller vouches.
        unsafe {
            let hashing = BodyModule::location_conf(&*r).and_then(Location::hashing);
            Self {
                is_secure: u8::from(!(*(*r).connection).ssl.is_null()),
                algorithm: hashing.map_or(NONE, |params| number(params.algorithm.index())),
                server_name: server_name(r),
                listening: listening(r),
                named: location::named(r),
            }
        }
    }
}

/// What nginx has read of a request; a field that it has not is empty.
struct Text<'a> {
    method: &'a [u8],
    /// The host as nginx understood it.
    server: &'a [u8],
    uri: &'a [u8],
    unparsed_uri: &'a [u8],
    args: &'a [u8],
}

impl Text<'_> {
    /// # Safety
    /// `r` is live, and outlives the value.
    unsafe fn of(r: *const ngx_http_request_t) -> Self {
        // SAFETY: as the caller vouches.
        unsafe {
            Self {
                method: nginx::bytes((*r).method_name),
                server: nginx::bytes((*r).headers_in.server),
                uri: nginx::bytes((*r).uri),
                unparsed_uri: nginx::bytes((*r).unparsed_uri),
                args: nginx::bytes((*r).args),
            }
        }
    }
}

/// Host, content type and content coding as the client sent them.
///
/// # Safety
/// `r` is live; the bytes live as long as it.
unsafe fn headers<'a>(r: *const ngx_http_request_t) -> [Cow<'a, [u8]>; 3] {
    let names = [HOST, head::CONTENT_TYPE, head::CONTENT_ENCODING];
    // SAFETY: as the caller vouches; the main request lives longer.
    unsafe {
        let [mut host, content_type, content_encoding] = nginx::headers_in((*r).main, names, head::LINES);
        if !std::ptr::eq(r, (*r).main) {
            // The body is the main request's; a module may have given a subrequest another Host.
            host = nginx::header_in(r, HOST, head::LINES);
        }
        [host, content_type, content_encoding]
    }
}

/// Of an algorithm or a form: the place it has in its table.
fn number(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(NONE)
}

/// The address of the `listen` that the client came to, as text: with it, [`server_name`] tells the
/// server block.
///
/// Not what a client sees of it: with `listen 80` any address of the machine is the same.
///
/// # Safety
/// `r` is live.
unsafe fn listening(r: *const ngx_http_request_t) -> ArrayVec<u8, ADDRESS_BYTES_MAX> {
    let mut text = ArrayVec::new();
    // SAFETY: as the caller vouches; the port that a socket serves lives as long as the
    // configuration, and nginx writes no more than it is told there is room for.
    unsafe {
        let connection = (*r).connection;
        let listening = (*connection).listening;
        let port = (*listening).servers.cast::<nginx_sys::ngx_http_port_t>();
        if port.is_null() || (*port).naddrs <= 1 {
            // A path of a unix socket is shorter than this, any other address much shorter.
            let _ = text.try_extend_from_slice(nginx::bytes((*listening).addr_text));
            return text;
        }
        // One socket for several addresses: nginx has asked the kernel which it is.
        let mut room = [0; ADDRESS_BYTES_MAX];
        let length = nginx_sys::ngx_sock_ntop(
            (*connection).local_sockaddr,
            (*connection).local_socklen,
            room.as_mut_ptr(),
            room.len(),
            1,
        );
        let _ = text.try_extend_from_slice(room.get(..length).unwrap_or_default());
    }
    text
}

/// The first name of the server block that `r` is in; several blocks may listen on one port. Blocks
/// that share it there, of which nginx warns, are not told apart.
///
/// # Safety
/// `r` is live; the name lives as long as the configuration.
unsafe fn server_name<'a>(r: *const ngx_http_request_t) -> &'a [u8] {
    // SAFETY: as the caller vouches.
    unsafe { NgxHttpCoreModule::server_conf(&*r).map_or(&[], |server| nginx::bytes(server.server_name)) }
}
