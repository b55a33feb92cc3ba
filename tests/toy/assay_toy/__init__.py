"""A package of studies from elsewhere, found by entry point: what the tests of runner and page check."""
