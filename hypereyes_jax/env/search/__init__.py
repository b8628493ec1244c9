"""What searches: services, record and replay, retries and limits, serving."""
