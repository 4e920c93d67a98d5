//! The queue by class: who goes first, who is promised a share, who is evicted, and what those are
//! told who find no place or wait too long.

use harness::nginx::Builder;
use harness::{Client, Fault, Nginx, Replica, Reply, eventually};
use hyper::Method;
use tokio::task::JoinHandle;

const CLASSES: &str = "pincer_class vip priority=1; pincer_class free priority=100 share=20;
    pincer_class hasty priority=100 queue_timeout=300ms; pincer_class few priority=50 queue=1;";

/// One peer with one slot and a queue; the class is what the header says.
fn one_slot(replica: &Replica, size: u32) -> Builder {
    let queue = format!("pincer_balance; pincer_queue size={size} timeout=20s;");
    Nginx::builder()
        .workers(3)
        .http(CLASSES)
        .balanced(&queue, [replica.server()], "max_conns=1")
        .server("pincer_limit class=$http_x_class;")
}

/// Requests that wait behind one which holds the only slot.
struct Line {
    replica: Replica,
    nginx: Nginx,
    client: Client,
    holder: JoinHandle<Reply>,
    count: u64,
}

impl Line {
    async fn new(size: u32) -> Self {
        let replica = Replica::named("a").start().await;
        let nginx = one_slot(&replica, size).start().await;
        replica.fault(Fault::Hang).await;
        let client = Client::single(&nginx.url());
        let holder = call(&client, "holder", "");
        eventually("the slot is held", 10.0, || async { nginx.status().await.in_flight() == 1 }).await;
        Self { replica, nginx, client, holder, count: 0 }
    }

    /// One more request, which waits when this returns.
    async fn join(&mut self, id: &str, class: &str) -> JoinHandle<Reply> {
        let pending = call(&self.client, id, class);
        self.count += 1;
        self.waits(self.count).await;
        pending
    }

    async fn waits(&self, count: u64) {
        let there = || async { self.nginx.status().await.waiting() == count };
        eventually(&format!("{count} wait"), 10.0, there).await;
    }

    /// Lets everybody in, and returns the order in which they were served.
    async fn release(self, waiting: Vec<JoinHandle<Reply>>) -> Vec<String> {
        self.replica.fault(Fault::None).await;
        for pending in std::iter::once(self.holder).chain(waiting) {
            assert_eq!(pending.await.expect("no panic").status, 200, "{}", self.nginx.tail());
        }
        self.replica.seen().order.split_off(1)
    }
}

fn call(client: &Client, id: &str, class: &str) -> JoinHandle<Reply> {
    tokio::spawn(client.call(Method::GET, "/").header("x-id", id).header("x-class", class).must())
}

async fn refused(pending: JoinHandle<Reply>) {
    let reply = pending.await.expect("no panic");
    assert_eq!(reply.status, 503);
    let seconds: u32 = reply.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_better_class_goes_first_whichever_worker_has_it_and_within_a_class_the_oldest() {
    let mut line = Line::new(50).await;
    let mut waiting = Vec::new();
    for (id, class) in
        [("f1", "free"), ("n1", ""), ("f2", "free"), ("v1", "vip"), ("v2", "vip"), ("n2", ""), ("v3", "vip")]
    {
        waiting.push(line.join(id, class).await);
    }
    assert_eq!(line.release(waiting).await, ["v1", "v2", "v3", "f1", "n1", "f2", "n2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_low_class_gets_the_share_it_is_promised_while_better_ones_wait() {
    let mut line = Line::new(50).await;
    let mut waiting = Vec::new();
    for number in 0..3 {
        waiting.push(line.join(&format!("f{number}"), "free").await);
    }
    for number in 0..15 {
        waiting.push(line.join(&format!("v{number}"), "vip").await);
    }
    let order = line.release(waiting).await;
    let free: Vec<usize> = (0..order.len()).filter(|at| order[*at].starts_with('f')).collect();
    assert_eq!(free, [4, 9, 14], "{order:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_sends_away_the_newest_of_the_lowest_class_for_a_better_one() {
    let mut line = Line::new(4).await;
    let mut waiting = Vec::new();
    for number in 0..4 {
        waiting.push(line.join(&format!("f{number}"), "free").await);
    }
    refused(call(&line.client, "f4", "free")).await;
    let vip = call(&line.client, "v", "vip");
    refused(waiting.pop().expect("the newest")).await;
    line.waits(4).await;
    waiting.push(vip);
    let status = line.nginx.status().await;
    assert_eq!(status.0["upstreams"][0]["queue"]["overflows"], 2);
    assert_eq!(line.release(waiting).await, ["v", "f0", "f1", "f2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_low_class_has_a_place_even_in_a_queue_full_of_a_better_one() {
    let mut line = Line::new(5).await;
    let mut waiting = Vec::new();
    for number in 0..5 {
        waiting.push(line.join(&format!("v{number}"), "vip").await);
    }
    let free = call(&line.client, "f0", "free");
    refused(waiting.pop().expect("the newest")).await;
    line.waits(5).await;
    refused(call(&line.client, "f1", "free")).await;
    waiting.push(free);
    assert_eq!(line.release(waiting).await, ["v0", "v1", "v2", "v3", "f0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_has_its_own_time_and_its_own_bound_in_the_queue() {
    let mut line = Line::new(50).await;
    refused(call(&line.client, "h", "hasty")).await;
    let few = line.join("few1", "few").await;
    refused(call(&line.client, "few2", "few")).await;
    assert_eq!(line.release(vec![few]).await, ["few1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_class_is_told_502_and_504_as_ever() {
    let replica = Replica::named("a").start().await;
    let nginx = Nginx::builder()
        .http(CLASSES)
        .balanced("pincer_balance; pincer_queue size=1 timeout=700ms;", [replica.server()], "max_conns=1")
        .server("pincer_limit class=$http_x_class;")
        .start()
        .await;
    replica.fault(Fault::Hang).await;
    let client = Client::single(&nginx.url());
    let holder = call(&client, "holder", "");
    eventually("the slot is held", 10.0, || async { nginx.status().await.in_flight() == 1 }).await;
    let waiter = call(&client, "waiter", "");
    eventually("one waits", 10.0, || async { nginx.status().await.waiting() == 1 }).await;
    let turned_away = call(&client, "third", "").await.expect("no panic");
    assert_eq!((turned_away.status, turned_away.header("retry-after")), (502, ""));
    assert_eq!(waiter.await.expect("no panic").status, 504);
    replica.fault(Fault::None).await;
    assert_eq!(holder.await.expect("no panic").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_while_they_are_refused_break_nothing() {
    let line = Line::new(1).await;
    let waiter = call(&line.client, "vip", "vip");
    line.waits(1).await;
    for _ in 0..200 {
        let sent = harness::client::raw::send(&line.nginx.address(), "/", &[("x-class", "free")]).await;
        sent.reset();
    }
    refused(call(&line.client, "free", "free")).await;
    line.waits(1).await;
    assert_eq!(line.release(vec![waiter]).await, ["vip"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_page_for_503_keeps_the_time_to_come_back() {
    let replica = Replica::named("a").start().await;
    let nginx =
        one_slot(&replica, 1).server("error_page 503 = @busy; location @busy { return 503 later; }").start().await;
    replica.fault(Fault::Hang).await;
    let client = Client::single(&nginx.url());
    let holder = call(&client, "holder", "vip");
    eventually("the slot is held", 10.0, || async { nginx.status().await.in_flight() == 1 }).await;
    let waiter = call(&client, "waiter", "vip");
    eventually("one waits", 10.0, || async { nginx.status().await.waiting() == 1 }).await;
    let reply = call(&client, "third", "vip").await.expect("no panic");
    assert_eq!((reply.status, &reply.body[..]), (503, &b"later"[..]));
    assert!(!reply.header("retry-after").is_empty());
    replica.fault(Fault::None).await;
    assert_eq!((holder.await.expect("no panic").status, waiter.await.expect("no panic").status), (200, 200));
}
