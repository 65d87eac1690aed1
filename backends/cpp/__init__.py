"""C++ for CPUs: print, build, load, run, measure."""
