/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An example of a backend: text:WORDS,size=SIZE is WORDS again and again, and can only be read.
 *
 *   cc -shared -fPIC -o memferry-backend-text.so memferry-backend-text.c $(pkg-config --cflags memferry)
 *   MEMFERRY_BACKENDS=. memferry mount text:hello,size=1M file
 */
#include <memferry-backend.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  WORDS,
  SIZE
};

static const memferry_option options[] = {
  { "words", MEMFERRY_OPTION_TEXT, 1, "what is repeated" },
  { "size", MEMFERRY_OPTION_SIZE, 1, "how many bytes of it" },
  { NULL, MEMFERRY_OPTION_TEXT, 0, NULL },
};

/* The context of the calls is the text. */
static int
text_open (const memferry_value *values, unsigned flags, void **context, memferry_limits *limits,
           memferry_reason *reason)
{
  if (values[WORDS].text[0] == '\0') {
    snprintf (reason->text, sizeof reason->text, "there are no words");
    return EINVAL;
  }
  *context = strdup (values[WORDS].text);
  limits->size_bytes = values[SIZE].number;
  return *context != NULL ? 0 : ENOMEM;
}

static int
text_read (void *context, void *buffer, uint32_t length, uint64_t offset, memferry_reason *reason)
{
  const char *words = context;
  const size_t n = strlen (words);

  for (uint32_t i = 0; i < length; i++)
    ((char *) buffer)[i] = words[(offset + i) % n];
  return 0;
}

static const memferry_backend plugin = {
  .struct_size = sizeof plugin,
  .api = MEMFERRY_BACKEND_API,
  .name = "text",
  .summary = "words, again and again",
  .options = options,
  .open = text_open,
  .close = free,
  .read = text_read,
};

MEMFERRY_BACKEND (plugin)
