"""Daily papers, put to the test.

The methods live in one package a field (`assay.gating`, `assay.inference`, `assay.optimize`), each
loaded when it is first used; what the papers claim and how that is tested in `assay.studies`.
"""

__version__ = "0.1.0"
