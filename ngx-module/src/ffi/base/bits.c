/*
 * Bit fields of nginx's structures, and nginx's inline functions that use them.
 *
 * The C compiler that nginx's headers are written for lays bit fields out; nobody else is asked.
 * bindgen 0.72 places the bit fields of ngx_http_request_t two bits off from nginx 1.29.3 on,
 * where a field of 16 bits stands before them (rust-bindgen, issue 3384).
 *
 * A function for each field that the module reads or writes, declared in bits.rs by the same list.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>
#include <ngx_event_pipe.h>
#include <ngx_http.h>

#define GET(kind, type, field)                                                                     \
    unsigned ngx_http_pincer_##kind##_##field(const type *it) { return it->field; }

#define SET(kind, type, field)                                                                     \
    void ngx_http_pincer_##kind##_set_##field(type *it, unsigned value) { it->field = value; }

#define BOTH(kind, type, field) GET(kind, type, field) SET(kind, type, field)

GET(request, ngx_http_request_t, aio)
BOTH(request, ngx_http_request_t, buffered)
GET(request, ngx_http_request_t, cached)
BOTH(request, ngx_http_request_t, count)
GET(request, ngx_http_request_t, discard_body)
SET(request, ngx_http_request_t, expect_tested)
GET(request, ngx_http_request_t, header_only)
GET(request, ngx_http_request_t, header_sent)
SET(request, ngx_http_request_t, keepalive)
SET(request, ngx_http_request_t, preserve_body)

GET(headers_in, ngx_http_headers_in_t, chunked)

BOTH(connection, ngx_connection_t, buffered)
GET(connection, ngx_connection_t, close)
BOTH(connection, ngx_connection_t, error)
SET(connection, ngx_connection_t, idle)
BOTH(connection, ngx_connection_t, sendfile)
BOTH(connection, ngx_connection_t, tcp_nopush)
GET(connection, ngx_connection_t, timedout)

SET(event, ngx_event_t, cancelable)
SET(event, ngx_event_t, channel)
BOTH(event, ngx_event_t, delayed)
GET(event, ngx_event_t, eof)
GET(event, ngx_event_t, error)
BOTH(event, ngx_event_t, ready)
BOTH(event, ngx_event_t, timedout)
GET(event, ngx_event_t, timer_set)

BOTH(peer, ngx_peer_connection_t, cached)

GET(upstream, ngx_http_upstream_t, buffering)
GET(upstream, ngx_http_upstream_t, cache_status)
BOTH(upstream, ngx_http_upstream_t, cacheable)
GET(upstream, ngx_http_upstream_t, header_sent)
GET(upstream, ngx_http_upstream_t, request_sent)
GET(upstream, ngx_http_upstream_t, upgrade)
GET(upstream_conf, ngx_http_upstream_conf_t, cache)
GET(upstream_server, ngx_http_upstream_server_t, backup)

GET(location, ngx_http_core_loc_conf_t, noname)

SET(pipe, ngx_event_pipe_t, aio)
GET(pipe, ngx_event_pipe_t, upstream_done)
GET(pipe, ngx_event_pipe_t, upstream_eof)

SET(output_chain, ngx_output_chain_ctx_t, sendfile)

GET(buf, ngx_buf_t, flush)
GET(buf, ngx_buf_t, in_file)
BOTH(buf, ngx_buf_t, last_buf)
SET(buf, ngx_buf_t, last_in_chain)
SET(buf, ngx_buf_t, last_shadow)
SET(buf, ngx_buf_t, memory)

SET(value, ngx_http_variable_value_t, not_found)

SET(cache, ngx_http_cache_t, temp_file)
GET(cache, ngx_http_cache_t, updated)

GET(cache_node, ngx_http_file_cache_node_t, count)
GET(cache_node, ngx_http_file_cache_node_t, deleting)
SET(cache_node, ngx_http_file_cache_node_t, error)
BOTH(cache_node, ngx_http_file_cache_node_t, exists)
SET(cache_node, ngx_http_file_cache_node_t, updating)
SET(cache_node, ngx_http_file_cache_node_t, valid_msec)

/* Whether the bytes of `it` are in memory, as ngx_buf_in_memory says. */
unsigned
ngx_http_pincer_buf_in_memory(const ngx_buf_t *it)
{
    return ngx_buf_in_memory(it);
}

/* A value that is there, to be asked for again at each use; no escaping in a log. */
void
ngx_http_pincer_value_fill(ngx_http_variable_value_t *it, u_char *data, size_t len)
{
    it->data = data;
    it->len = len;
    it->valid = 1;
    it->no_cacheable = 0;
    it->not_found = 0;
    it->escape = 0;
}

void
ngx_http_pincer_event_add_timer(ngx_event_t *it, ngx_msec_t ms)
{
    ngx_add_timer(it, ms);
}

void
ngx_http_pincer_event_del_timer(ngx_event_t *it)
{
    ngx_del_timer(it);
}

/* Posted once, however often this is called before it runs. */
void
ngx_http_pincer_event_post(ngx_event_t *it, ngx_queue_t *queue)
{
    ngx_post_event(it, queue);
}

void
ngx_http_pincer_event_unpost(ngx_event_t *it)
{
    if (it->posted) {
        ngx_delete_posted_event(it);
    }
}
