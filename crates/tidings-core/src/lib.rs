//! The domain of Tidings: publish, streams and catch-up, access; and the ports it needs.
