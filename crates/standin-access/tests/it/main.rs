//! The listener and the authenticator over real sockets: with hand-made requests for what no client sends, and
//! with the clients that people use.

mod basic;
mod certificates;
mod clients;
mod kerberos;
mod limits;
mod negotiate;
mod raw;
mod server;
