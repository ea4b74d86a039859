/// Marks what the shared library exports; everything else in it is hidden. For C and C++.
#ifndef DATASPARSE_API_H
#define DATASPARSE_API_H

#ifdef __GNUC__
#define DATASPARSE_API __attribute__((visibility("default")))
#else
#define DATASPARSE_API
#endif

#endif
