//! Brokers behind the Broker port: the embedded log.
