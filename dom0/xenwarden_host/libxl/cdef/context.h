/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libxl.h, libxl_event.h, xentoollog.h: contexts, their log and their children. */

typedef ... xentoollog_logger;
typedef ... libxl_ctx;

#define LIBXL_VERSION ...
#define XTL_WARN ...

int libxl_ctx_alloc(libxl_ctx **pctx, int version, unsigned flags, xentoollog_logger *lg);
int libxl_ctx_free(libxl_ctx *ctx);
void xtl_logger_destroy(xentoollog_logger *logger);

/* ours, in _build.py */
void xw_own_children(libxl_ctx *ctx);
xentoollog_logger *xw_logger(int min_level);
