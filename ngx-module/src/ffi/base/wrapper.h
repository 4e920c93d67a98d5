/*
 * Structures of nginx that nginx-sys lacks: bindgen makes wrapper.rs of them, for the headers that
 * the module is built for.
 *
 * What a module keeps to itself stands in none of its headers, and is said here again, as far as it
 * is used. Rust has to check at run time what it finds there, or to use no more than a first field
 * that all versions have.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>

#if defined(__has_include)
#if __has_include(<ngx_http_v2.h>)
#define PINCER_HAS_HTTP_V2 1
#endif
#if __has_include(<ngx_http_proxy_module.h>)
#define PINCER_HAS_HTTP_PROXY 1
#endif
#endif

#if (PINCER_HAS_HTTP_V2)
#include <ngx_http_v2.h>
#else

/* nginx is built without HTTP/2: no request has a stream. */

typedef struct ngx_http_v2_connection_s ngx_http_v2_connection_t;

struct ngx_http_v2_connection_s {
    ngx_connection_t          *connection;
};

struct ngx_http_v2_stream_s {
    ngx_http_request_t        *request;
    ngx_http_v2_connection_t  *connection;
};

#endif

#if (PINCER_HAS_HTTP_PROXY)
#include <ngx_http_proxy_module.h>
#else

/* The beginning of what the proxy module keeps of a request, since nginx 1.1.4. Newer versions have
 * it in a header. */

typedef struct {
    ngx_str_t                  key_start;
    ngx_str_t                  schema;
    ngx_str_t                  host_header;
    ngx_str_t                  port;
    ngx_str_t                  uri;
} ngx_http_proxy_vars_t;

typedef struct {
    ngx_http_status_t          status;
    ngx_http_chunked_t         chunked;
    ngx_http_proxy_vars_t      vars;
} ngx_http_proxy_ctx_t;

#endif

/* The beginning of what the rewrite module keeps of a location: null without directives. */

typedef struct {
    ngx_array_t               *codes;
} ngx_http_rewrite_loc_conf_t;

/* What the try_files module keeps of a location: null without the directive. */

typedef struct {
    void                      *try_files;
} ngx_http_try_files_loc_conf_t;
