"""Events in, answers out: a server that keeps each visitor's state and answers at the moment of the cart."""
