"""What processes send each other over TCP: who is called, what a message is, samples on their way."""
