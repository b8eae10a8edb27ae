"""RPC with model containers: connections and messages."""
