//! The configuration of both sides: the same text, but for the addresses, and for Pincer's
//! directives on one of them, each of which should change nothing.
//!
//! Every server has all locations; they differ in where `error_page` goes. Time limits are short,
//! so that cut requests end soon.

use crate::origin::Origin;

/// Where `error_page` of each server goes: a location of every kind.
pub const PLACES: [(&str, &str); 24] = [
    ("none", ""),
    ("proxy", "/proxy/s200/l90"),
    ("keep", "=200 /keep/chunked/l90"),
    ("stream", "/stream/l90"),
    ("wait", "=503 /wait/l50"),
    ("dead", "/dead/"),
    ("grpc", "/grpc/l90"),
    ("fcgi", "= /fcgi/l90"),
    ("static", "/static/a.txt"),
    ("try", "=200 /try/nothing"),
    ("mirror", "/mirror/l90"),
    ("auth", "/auth/l90"),
    ("ssi", "= /ssi/include"),
    ("named", "@named"),
    ("named-grpc", "= @grpc"),
    ("if", "/if/l90?x=1"),
    ("rewrite", "/rewrite/l90"),
    ("cache", "/cache/keep/l90"),
    ("gzip", "/gzip/l900"),
    ("slice", "/slice/l900"),
    ("return", "=418 /return/"),
    ("redirect", "http://127.0.0.1/elsewhere"),
    ("code", "/code/404"),
    ("body", "/echo"),
];

/// Codes that `error_page` names; those that a location of its own returns are among them.
pub const CODES: &str = "400 401 402 403 404 405 406 408 409 410 411 412 413 414 415 416 421 429 494 495 496 497 500 501 502 503 504 505 507";

/// Prefixes of the locations that inputs ask for.
pub const LOCATIONS: [&str; 48] = [
    "/proxy/",
    "/keep/",
    "/stream/",
    "/small/",
    "/wait/",
    "/dead/",
    "/uri/",
    "/var/",
    "/next/",
    "/intercept/",
    "/grpc/",
    "/fcgi/",
    "/static/a.txt",
    "/static/big.txt",
    "/static/",
    "/try/",
    "/tryfile/",
    "/mirror/",
    "/mirrorbody/",
    "/auth/",
    "/ssi/",
    "/ssistatic.html",
    "/cache/",
    "/cachelock/",
    "/gzip/",
    "/gunzip/",
    "/sub/",
    "/add/",
    "/if/",
    "/rewrite/",
    "/slice/",
    "/return/",
    "/echo",
    "/limited/",
    "/body/",
    "/deny/",
    "/basic/",
    "/post/",
    "/up/",
    "/internal/",
    "/setbody/",
    "/unchunked/",
    "/range/",
    "/trailer/",
    "/dav/",
    "/satisfy/",
    "/unread/",
    "/readearly/",
];

/// A part of the name of the location where bodies are read early.
pub const EARLY: &str = "readearly";

/// The ports of one run, the same for both sides.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// HTTP/1.
    pub http: u16,
    /// HTTP/2 with prior knowledge.
    pub http2: u16,
    /// TLS.
    pub tls: u16,
}

/// What makes the text of a side.
pub struct Side<'a> {
    /// With the module.
    pub pincer: bool,
    /// Ports to listen at.
    pub ports: Ports,
    /// Behind the proxies.
    pub origin: &'a Origin,
    /// A port where nothing listens.
    pub refusing: u16,
    /// Folder of the files that both sides serve.
    pub files: &'a std::path::Path,
    /// Certificate and key.
    pub certificate: (std::path::PathBuf, std::path::PathBuf),
}

/// The address of a place's server, on the plain side or the other.
pub fn address(pincer: bool, place: usize) -> String {
    format!("127.{}.{}.1", if pincer { 9 } else { 8 }, place + 1)
}

/// The whole nginx.conf of a side.
pub fn text(side: &Side<'_>) -> String {
    let servers: String = (0..PLACES.len()).map(|place| server(side, place)).collect();
    let (main, http) = if side.pincer { ("{{load_module}}", PINCER) } else { ("", PLAIN) };
    let status = if side.pincer {
        "server { pincer_limit off; listen 127.0.0.1:{{status_port}}; location = /pincer_status { pincer_status; } }"
    } else {
        ""
    };
    format!(
        "{main} master_process on; worker_processes 1; error_log logs/error.log error; events {{ worker_connections 4096; }}\n\
         http {{ {TIMES} {TEMP} {http} {}\n{status} server {{ listen 127.0.0.1:{{{{port}}}}; return 204; }}\n{servers} }}\n",
        upstreams(side)
    )
}

/// Short limits but for lingering: when that ends by time while an error page of 413 is proxied,
/// stock nginx uses what it has freed (`ngx_http_discarded_request_body_handler`, seen in 1.22.1
/// and 1.28.3). And what every proxy tells the origin.
const TIMES: &str = "client_header_timeout 1s; client_body_timeout 1s; send_timeout 1s; keepalive_timeout 1s; lingering_time 4s; lingering_timeout 4s;
    proxy_connect_timeout 1s; proxy_read_timeout 1s; proxy_send_timeout 1s; grpc_connect_timeout 1s; grpc_read_timeout 1s; grpc_send_timeout 1s;
    fastcgi_connect_timeout 1s; fastcgi_read_timeout 1s; fastcgi_send_timeout 1s; large_client_header_buffers 4 2k; client_body_buffer_size 2k;
    proxy_set_header X-Fuzz-Client $remote_addr; grpc_set_header X-Fuzz-Client $remote_addr;
    fastcgi_param HTTP_X_FUZZ_CLIENT $remote_addr; fastcgi_param REQUEST_METHOD $request_method; fastcgi_param REQUEST_URI $request_uri;
    fastcgi_param CONTENT_LENGTH $content_length; fastcgi_param CONTENT_TYPE $content_type; fastcgi_param SCRIPT_NAME $fastcgi_script_name;
    fastcgi_param QUERY_STRING $args;
    proxy_next_upstream_tries 2; http2_max_concurrent_streams 8; variables_hash_max_size 2048;";

/// Everything stays in the run's own folder.
const TEMP: &str = "client_body_temp_path temp/body; proxy_temp_path temp/proxy; fastcgi_temp_path temp/fastcgi; scgi_temp_path temp/scgi;
    uwsgi_temp_path temp/uwsgi; proxy_cache_path cache keys_zone=c:8m inactive=1m max_size=64m;
    types { text/plain txt; text/html html; } default_type application/octet-stream;";

const PLAIN: &str = "log_format fuzz '$remote_addr $connection \"$request\" $status'; access_log logs/access.log fuzz;";

/// Every directive that should change nothing.
const PINCER: &str = "pincer_zone pincer:16m; pincer_class default rate=1r/m concurrency=1 priority=5; pincer_class bare;
    pincer_class wide rate=60000r/s burst=60000 nodelay concurrency=60000;
    pincer_limit class=bare key=$binary_remote_addr; pincer_limit class=default key=$binary_remote_addr dry_run;
    pincer_limit class=$http_x_class key=$http_x_key dry_run; pincer_limit class=default dry_run;
    pincer_key $http_authorization;
    log_format fuzz '$remote_addr $connection \"$request\" $status $pincer_ttft $pincer_queue_time $pincer_class $pincer_tenant $pincer_limit_status $pincer_body_hash $pincer_cache_key $pincer_uncacheable $pincer_revision';
    access_log logs/access.log fuzz;";

/// One upstream has slots, as many as an input may have streams: in a crowd requests wait for them,
/// alone none does.
fn upstreams(side: &Side<'_>) -> String {
    let Origin { http, grpc, fastcgi, .. } = side.origin;
    let (balance, slots) =
        if side.pincer { ("pincer_balance; pincer_queue size=1000 timeout=30s;", "max_conns=8") } else { ("", "") };
    let block = |name: &str, server: String| format!("upstream {name} {{ {balance} {server} }}\n");
    [
        block("u", format!("server {http};")),
        block("uk", format!("server {http}; keepalive 8;")),
        block("uw", format!("server {http} {slots};")),
        block("ud", format!("server 127.0.0.1:{};", side.refusing)),
        block("ug", format!("server {grpc};")),
        block("ugk", format!("server {grpc}; keepalive 4;")),
        block("uf", format!("server {fastcgi};")),
    ]
    .concat()
}

fn server(side: &Side<'_>, place: usize) -> String {
    let (name, target) = PLACES[place];
    let address = address(side.pincer, place);
    let Ports { http, http2, tls } = side.ports;
    let error_page = if target.is_empty() { String::new() } else { format!("error_page {CODES} {target};") };
    let codes: String =
        CODES.split(' ').map(|code| format!("location = /code/{code} {{ return {code}; }}\n")).collect();
    // Of every third server, errors of error pages go on to error pages.
    let recursive = if place % 3 == 2 { "recursive_error_pages on;" } else { "" };
    let verify = if place % 4 == 3 { "ssl_verify_client on;" } else { "ssl_verify_client optional;" };
    let (certificate, key) = (side.certificate.0.display(), side.certificate.1.display());
    let files = side.files.display();
    let hash = if side.pincer { "pincer_body_hash blake3 form=auto;" } else { "" };
    let locations = LOCATION_TEXT.replace("{{files}}", &files.to_string());
    let locations = locations.replace("{{hash}}", hash).replace("{{early}}", hash);
    format!(
        "server {{ listen {address}:{http}; listen {address}:{http2} http2; listen {address}:{tls} ssl http2;
            server_name fuzz.test; add_header X-Place {name} always; root {files};
            ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_client_certificate {certificate}; {verify}
            {error_page} {recursive}
            {codes} {locations} }}\n"
    )
}

/// The locations, each with its name in a header of the response. Bodies are hashed where that
/// should change nothing, since nginx reads them in full anyway (`{{hash}}`), and at one place
/// where it does (`{{early}}`: [`crate::documented::reads_early`]).
const LOCATION_TEXT: &str = r#"
    location / { add_header X-Place root always; }
    location /proxy/ { {{hash}} add_header X-Place proxy always; proxy_pass http://u; }
    location /keep/ { {{hash}} add_header X-Place keep always; proxy_pass http://uk; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header X-Fuzz-Client $remote_addr; }
    location /stream/ { add_header X-Place stream always; proxy_pass http://uk; proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off; proxy_set_header Connection ""; proxy_set_header X-Fuzz-Client $remote_addr; }
    location /small/ { {{hash}} add_header X-Place small always; proxy_pass http://u; proxy_buffer_size 1k; proxy_buffers 3 1k; proxy_busy_buffers_size 2k; client_body_in_file_only clean; }
    location /wait/ { {{hash}} add_header X-Place wait always; proxy_pass http://uw; proxy_http_version 1.1; }
    location /dead/ { {{hash}} add_header X-Place dead always; proxy_pass http://ud; }
    location /uri/ { {{hash}} add_header X-Place uri always; proxy_pass http://u/base/?was=; }
    location /var/ { {{hash}} add_header X-Place var always; set $backend u; proxy_pass http://$backend$uri?$args; }
    location /next/ { {{hash}} add_header X-Place next always; proxy_pass http://u; proxy_next_upstream error timeout invalid_header http_500 http_502 http_503 http_504 http_403 http_404 http_429 non_idempotent; }
    location /intercept/ { {{hash}} add_header X-Place intercept always; proxy_pass http://u; proxy_intercept_errors on; }
    location /grpc/ { add_header X-Place grpc always; grpc_pass grpc://ug; grpc_intercept_errors on; }
    location /fcgi/ { {{hash}} add_header X-Place fcgi always; fastcgi_pass uf; fastcgi_intercept_errors on; }
    location /static/ { add_header X-Place static always; }
    location /try/ { add_header X-Place try always; try_files $uri /static$uri @named; }
    location /tryfile/ { add_header X-Place tryfile always; try_files /static/a.txt =404; }
    location /mirror/ { {{hash}} add_header X-Place mirror always; mirror /mirrored; proxy_pass http://u; }
    location /mirrorbody/ { add_header X-Place mirrorbody always; mirror /mirrored; mirror_request_body off; proxy_pass http://uk; proxy_http_version 1.1; proxy_request_buffering off; }
    location = /mirrored { {{hash}} internal; proxy_pass http://u/mirrored$request_uri; }
    location /auth/ { {{hash}} add_header X-Place auth always; auth_request /authorized; proxy_pass http://u; }
    location = /authorized { internal; proxy_pass http://u/authorized?$args; proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_set_header X-Fuzz-Client $remote_addr; }
    location /ssi/ { {{hash}} add_header X-Place ssi always; ssi on; proxy_pass http://u; }
    location = /ssistatic.html { add_header X-Place ssistatic always; ssi on; alias {{prefix}}/conf/ssi.html; }
    location /cache/ { {{hash}} add_header X-Place cache always; proxy_pass http://u; proxy_cache c; proxy_cache_key $remote_addr$request_uri; proxy_cache_valid any 1m; proxy_cache_methods GET HEAD POST; add_header X-Cache $upstream_cache_status always; }
    location /cachelock/ { {{hash}} add_header X-Place cachelock always; proxy_pass http://uk; proxy_cache c; proxy_cache_key $remote_addr$uri; proxy_cache_valid any 1m; proxy_cache_lock on; proxy_cache_min_uses 1; proxy_cache_use_stale error timeout updating http_500; proxy_cache_revalidate on; }
    location /gzip/ { {{hash}} add_header X-Place gzip always; gzip on; gzip_min_length 10; gzip_types *; gzip_http_version 1.0; gzip_proxied any; proxy_pass http://u; }
    location /gunzip/ { {{hash}} add_header X-Place gunzip always; gunzip on; gzip_proxied any; proxy_pass http://u; }
    location /sub/ { {{hash}} add_header X-Place sub always; sub_filter origin fuzzer; sub_filter_once off; sub_filter_types *; proxy_pass http://u; }
    location /add/ { {{hash}} add_header X-Place add always; add_before_body /static/a.txt; add_after_body /proxy/l20; addition_types *; proxy_pass http://u; }
    location /if/ { {{hash}} add_header X-Place if always; if ($arg_x) { proxy_pass http://u; } if ($request_method = POST) { return 405; } if ($http_x_if) { rewrite ^ /static/a.txt last; } proxy_pass http://uk; }
    location /rewrite/ { add_header X-Place rewrite always; rewrite ^/rewrite/(.*)$ /proxy/$1 last; }
    location /slice/ { {{hash}} add_header X-Place slice always; slice 200; proxy_cache c; proxy_cache_key $remote_addr$uri$slice_range; proxy_set_header Range $slice_range; proxy_set_header X-Fuzz-Client $remote_addr; proxy_cache_valid 200 206 1m; proxy_pass http://u; }
    location /return/ { add_header X-Place return always; return 200 "returned\n"; }
    location = /echo { add_header X-Place echo always; return 200 "$request_method|$uri|$args|$host|$content_length|$request_length|$server_protocol|$http_x_class|$request_body|\n"; }
    location /limited/ { {{hash}} add_header X-Place limited always; limit_rate 100k; limit_rate_after 1k; proxy_pass http://u; proxy_buffering off; }
    location /body/ { {{hash}} add_header X-Place body always; client_max_body_size 100; proxy_pass http://u; }
    location /deny/ { {{hash}} add_header X-Place deny always; deny all; proxy_pass http://u; }
    location /basic/ { {{hash}} add_header X-Place basic always; auth_basic fuzz; auth_basic_user_file {{prefix}}/conf/users; proxy_pass http://u; }
    location /post/ { {{hash}} add_header X-Place post always; post_action /proxy/post; proxy_pass http://u; }
    location /up/ { {{hash}} add_header X-Place up always; proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_set_header X-Fuzz-Client $remote_addr; }
    location /internal/ { add_header X-Place internal always; internal; alias {{files}}/static/; }
    location /setbody/ { {{hash}} add_header X-Place setbody always; proxy_set_body "with $request_body"; proxy_method POST; proxy_pass http://u; }
    location /unchunked/ { {{hash}} add_header X-Place unchunked always; chunked_transfer_encoding off; proxy_pass http://uk; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header X-Fuzz-Client $remote_addr; }
    location /range/ { {{hash}} add_header X-Place range always; proxy_force_ranges on; max_ranges 3; proxy_pass http://u; }
    location /trailer/ { {{hash}} add_header X-Place trailer always; add_trailer X-Method $request_method always; proxy_pass http://uk; proxy_http_version 1.1; }
    location /dav/ { add_header X-Place dav always; dav_methods DELETE MKCOL COPY MOVE; }
    location /satisfy/ { {{hash}} add_header X-Place satisfy always; satisfy any; deny all; auth_basic fuzz; auth_basic_user_file {{prefix}}/conf/users; proxy_pass http://u; }
    location /unread/ { {{hash}} add_header X-Place unread always; proxy_pass http://u; proxy_pass_request_body off; proxy_pass_request_headers off; proxy_ignore_client_abort on; }
    location /readearly/ { {{early}} add_header X-Place readearly always; grpc_pass grpc://ugk; grpc_next_upstream error timeout http_500 non_idempotent; }
    location @named { {{hash}} add_header X-Place named always; proxy_pass http://u; }
    location @grpc { add_header X-Place named-grpc always; grpc_pass grpc://ugk; }
"#;
