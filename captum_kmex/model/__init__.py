"""Reading a model: what its modules return, in which layout, and where its head stands."""
