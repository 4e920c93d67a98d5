//! Answers that threads write to files and read from there, for one and the same request in turns.

use super::downloads::ms;
use super::streams::{event, sender, unzipped};
use harness::nginx::CACHE;
use harness::{Nginx, load};
use hyper::Method;

/// Answers at once in each place.
const ANSWERS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_threads_write_and_read_come_whole() {
    let pieces: Vec<_> = (0..300).map(|number| (ms(1), event(number, 3_000))).collect();
    let slow: Vec<u8> = pieces.iter().flat_map(|(_, event)| event.clone()).collect();
    let slow_at = sender(pieces).await;
    let fast = event(0, 100_000);
    let fast_at = sender(vec![(ms(0), fast.clone())]).await;
    let nginx = Nginx::builder()
        .http("pincer_zone pincer:1m; pincer_class wide bandwidth=1m; pincer_class narrow bandwidth=60k;")
        .http("gzip_types text/event-stream; gzip_proxied any;")
        .http(CACHE)
        .server("aio threads; aio_write on; proxy_http_version 1.1; pincer_limit class=wide key=$arg_k;")
        .server(format!(
            "location /slow {{ proxy_pass http://{slow_at}; }}
             location /sendfile {{ sendfile on; proxy_pass http://{slow_at}; }}
             location /zipped {{ gzip on; proxy_pass http://{slow_at}; }}
             location /cached {{ proxy_cache c; proxy_cache_key $request_uri; proxy_cache_valid 1h; proxy_pass http://{slow_at}; }}
             location /fast {{ pincer_limit class=narrow key=$arg_k; output_buffers 1 4k; proxy_buffer_size 4k;
                 proxy_buffers 4 4k; proxy_busy_buffers_size 8k; proxy_pass http://{fast_at}; }}"
        ))
        .start()
        .await;
    for (path, whole) in [
        ("/slow", &slow),
        ("/sendfile", &slow),
        ("/zipped", &slow),
        ("/cached", &slow),
        ("/cached", &slow),
        ("/fast", &fast),
    ] {
        let client = nginx.client();
        let answers = load::closed(ANSWERS, ANSWERS, move |number| {
            let client = client.clone();
            let path = format!("{path}?k={number}");
            async move { client.call(Method::GET, &path).header("accept-encoding", "gzip").send().await }
        })
        .await;
        for answer in answers {
            let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}: {}", nginx.tail()));
            let zipped = answer.header("content-encoding") == "gzip";
            let body = if zipped { unzipped(&answer.body) } else { answer.body.to_vec() };
            assert_eq!((answer.status, zipped), (200, path == "/zipped"), "{path}");
            assert!(body == *whole, "{path}: {} bytes of {}", body.len(), whole.len());
        }
    }
}
