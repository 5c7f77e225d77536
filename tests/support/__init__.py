"""What the tests share: servers, models, and the ways to run them."""
