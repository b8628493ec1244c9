"""Images and crops of them."""
