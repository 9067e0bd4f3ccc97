// Of a target that only makes precompiled headers.
