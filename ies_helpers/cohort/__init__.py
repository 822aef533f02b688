"""The same work for many subjects: joblib here, a Dask cluster elsewhere."""
