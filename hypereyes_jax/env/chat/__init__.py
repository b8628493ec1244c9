"""Chat endpoints as clients see them: requests, replies whole and streamed, and episodes played with them."""
