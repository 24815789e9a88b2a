//! The same tests over every way to hold a stream: whatever carries it, a stream is one.

/// Makes a test of each of these functions for each way. A test's name is that of its function and the way's.
macro_rules! on_every_way {
    ($($test:ident),* $(,)?) => {
        on_ways!([http1: Http1, http1_tls: Http1Tls, http2: Http2, http2_tls: Http2Tls] $($test),*);
    };
}

/// The same for what HTTP/1.1 alone has.
macro_rules! on_http1 {
    ($($test:ident),* $(,)?) => { on_ways!([cleartext: Http1, tls: Http1Tls] $($test),*); };
}

/// The same for what HTTP/2 alone has.
macro_rules! on_http2 {
    ($($test:ident),* $(,)?) => { on_ways!([cleartext: Http2, tls: Http2Tls] $($test),*); };
}

macro_rules! on_ways {
    ($ways:tt $($test:ident),*) => { $(on_ways!(@test $test $ways);)* };
    (@test $test:ident [$($name:ident: $way:ident),*]) => {
        mod $test {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$test(tidings_testkit::endpoint::Way::$way).await;
                }
            )*
        }
    };
}

mod addresses;
mod beginning;
mod dead_peer;
mod drain;
mod endings;
mod http1;
mod http2;
mod long_poll;
mod resuming;
mod slow;
mod tls;
