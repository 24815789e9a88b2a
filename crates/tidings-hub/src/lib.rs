//! Subscriptions, queues, overflow and conflation of one Tidings node.
