//! Affinity (placeholder).
