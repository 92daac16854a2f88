//! What only collections of documents have.
