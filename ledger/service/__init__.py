"""Programs around a log: serve it, witness it, watch it. They speak HTTP; the core never imports them."""
