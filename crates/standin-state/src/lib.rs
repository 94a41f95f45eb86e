//! What must survive a restart: a small durable key-value store.
