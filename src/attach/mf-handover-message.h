/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The messages of the hand-over socket: docs/protocol.md, "Hand-over". What comes in is from a program that need not be
 * a friend: every length is bounded and every number checked before it is used.
 */
#include "track/mf-mapping.h"

G_BEGIN_DECLS

#define MF_HANDOVER_VERSION   1
#define MF_HANDOVER_LINE_MAX  16384 /* bytes, the newline included */
#define MF_HANDOVER_DEPTH_MAX 4

typedef enum {
  MF_HANDOVER_OFFER,
  MF_HANDOVER_DESCRIPTORS,
  MF_HANDOVER_MAPPINGS,
} mf_handover_type;

typedef struct {
  mf_handover_type type;
  uint32_t generation; /* OFFER: how often these descriptors were handed over before */
  guint n_mappings;    /* OFFER, MAPPINGS */
  mf_mapping mappings[MF_MAPPINGS_MAX];
} mf_handover_message;

/* Reads one line, without its newline. Errors: MF_ERROR_PROTOCOL, MF_ERROR_VERSION. */
gboolean mf_handover_message_parse (const char *line, gsize length, mf_handover_message *message, GError **error);

/* An answer, with its newline: `type` is "device", "attached" or "mapped". */
char *mf_handover_answer (const char *type);
/* The answer "refused". */
char *mf_handover_refusal (const char *reason);

G_END_DECLS
