"""The learned router: how hard a prompt is, by hashed n-grams and its structure. Pure; files are read in `router.learned`."""
