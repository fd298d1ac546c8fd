/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * lane-copy URI FILE: copies an export to FILE through a lane of ours, with many requests in flight, and prints "SIZE
 * bytes, N hole pages". lane-copy --map CONTEXT URI: prints the export's extents, "OFFSET LENGTH FLAGS" a line.
 * --simple: without structured replies.
 */
#include "nbd/mf-nbd-client.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define PAGE     4096u
#define PIECE    (256u << 10)
#define REQUESTS 16
#define TIMEOUT  (20 * G_USEC_PER_SEC)

typedef struct {
  mf_lane *lane;
  int fd;
  uint64_t next, hole_pages;
  guint left; /* requests that are under way */
  int error;
} Copy;

static void
submit (Copy *copy, mf_request *request)
{
  uint64_t size = mf_lane_size (copy->lane);

  if (copy->next == size || copy->error)
    return;
  request->offset = copy->next;
  request->length = (uint32_t) MIN (PIECE, size - copy->next);
  copy->next += request->length;
  copy->left++;
  mf_lane_submit (copy->lane, request);
}

static void
on_done (mf_request *request, gpointer user_data)
{
  Copy *copy = user_data;

  copy->left--;
  if (request->error) {
    copy->error = request->error;
    return;
  }
  for (guint page = 0; page * PAGE < request->length; page++) {
    uint32_t part = MIN (PAGE, request->length - page * PAGE);
    uint8_t *bytes = (uint8_t *) request->buffer + page * PAGE;

    if (request->holes[page / 64] >> page % 64 & 1) {
      copy->hole_pages++;
      memset (bytes, 0, part);
    }
    if (pwrite (copy->fd, bytes, part, (off_t) (request->offset + page * PAGE)) != (ssize_t) part)
      copy->error = EIO;
  }
  submit (copy, request);
}

static gboolean
copy_all (mf_lane *lane, const char *path, GError **error)
{
  Copy copy = { .lane = lane, .fd = open (path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) };
  mf_request requests[REQUESTS] = { 0 };
  gboolean ok = TRUE;

  if (copy.fd == -1)
    return mf_error_from_errno (error, errno, "%s", path);
  for (guint i = 0; i < REQUESTS; i++) {
    requests[i] = (mf_request){ .page_bytes = PAGE, .buffer = g_malloc (PIECE), .done = on_done, .user_data = &copy };
    submit (&copy, &requests[i]);
  }
  while (ok && copy.left > 0)
    ok = mf_lane_poll (lane, NULL, 0, TIMEOUT, error);
  for (guint i = 0; i < REQUESTS; i++)
    g_free (requests[i].buffer);
  close (copy.fd);
  if (ok && copy.error)
    return mf_error_from_errno (error, copy.error, "reading");
  if (ok)
    g_print ("%" G_GUINT64_FORMAT " bytes, %" G_GUINT64_FORMAT " hole pages\n", mf_lane_size (lane), copy.hole_pages);
  return ok;
}

static gboolean
print_map (mf_lane *lane, const char *context, GError **error)
{
  g_autoptr (GArray) extents = g_array_new (FALSE, FALSE, sizeof (mf_extent));
  uint64_t offset = 0;

  if (!mf_lane_extents (lane, context, 0, mf_lane_size (lane), extents, error))
    return FALSE;
  for (guint i = 0; i < extents->len; i++) {
    mf_extent extent = g_array_index (extents, mf_extent, i);

    g_print ("%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT " %u\n", offset, extent.length, extent.flags);
    offset += extent.length;
  }
  return TRUE;
}

int
main (int argc, char **argv)
{
  g_autofree char *context = NULL;
  gboolean simple = FALSE;
  const GOptionEntry entries[] = { { "map", 0, 0, G_OPTION_ARG_STRING, &context, NULL, NULL },
                                   { "simple", 0, 0, G_OPTION_ARG_NONE, &simple, NULL, NULL },
                                   G_OPTION_ENTRY_NULL };
  g_autoptr (GOptionContext) words = g_option_context_new ("URI [FILE]");
  mf_nbd_client_options options = { 0 };
  g_autoptr (GError) error = NULL;
  g_autoptr (mf_lane) lane = NULL;
  gboolean ok;

  g_option_context_add_main_entries (words, entries, NULL);
  if (!g_option_context_parse (words, &argc, &argv, &error) || argc < 2 || (!context && argc < 3)) {
    g_printerr ("lane-copy: %s\n", error ? error->message : "URI and FILE, or --map CONTEXT and URI");
    return 2;
  }
  options.structured = !simple;
  options.dirty = context && g_str_equal (context, "memferry:dirty");
  lane = mf_nbd_client_new_uri (argv[1], &options, TIMEOUT, &error);
  ok = lane && (context ? print_map (lane, context, &error) : copy_all (lane, argv[2], &error));
  if (ok && !mf_lane_flush (lane, &error))
    ok = FALSE;
  if (!ok)
    g_printerr ("lane-copy: %s\n", error->message);
  return ok ? 0 : 1;
}
