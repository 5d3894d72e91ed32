"""Networks F(x, lam, cond): one readable file each."""
