"""Jobs on this machine, in a system of their own that ends with them."""
