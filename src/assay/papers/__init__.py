"""Paper records: the catalogue, the pages and sources that tell of papers, and what is kept of them.

Start with `Papers`, the records in the database; `catalogue.catalogue()` gives the papers that come with a
study, and `saved_page.parse()` reads a saved Daily Papers page.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
