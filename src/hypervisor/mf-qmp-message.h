/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Cuts what QEMU sends into messages: JSON objects, one after the other, with white space between them. For mf-qmp.c.
 */
#include <json-glib/json-glib.h>

typedef struct _mf_qmp_splitter mf_qmp_splitter;

mf_qmp_splitter *mf_qmp_splitter_new (size_t max_message_bytes);
void mf_qmp_splitter_free (mf_qmp_splitter *splitter);
void mf_qmp_splitter_add (mf_qmp_splitter *splitter, const char *bytes, size_t n_bytes);
/* The next whole message (an object; transfer full). NULL without error: more bytes are needed. MF_ERROR_PROTOCOL: what came is no message, and what follows
 * can't be one. */
JsonNode *mf_qmp_splitter_next (mf_qmp_splitter *splitter, GError **error);
