/* A stand-in for a Jetson's camera elements, so that the production launch line runs unchanged on any PC.
 *
 *   nvarguscamerasrc   a bin around any raw-video scene
 *   nvvidconv          scaling, colour format, flip-method 0 to 7; like the real one it refuses BGR
 *
 * Caps really negotiate video/x-raw(memory:NVMM); the memory underneath is ordinary.
 *
 * Environment, read when the camera element is made:
 *   NVSTUB_SCENE    launch fragment that gives raw video (default: a live moving ball)
 *   NVSTUB_FAULT    elements between scene and output: "identity eos-after=60", "identity error-after=60",
 *                   "identity drop-probability=0.1"
 *   NVSTUB_HANG     N          after N frames nothing more comes and nothing is said; stopping still works
 *                   N:SECONDS  silent for that long once, then it goes on
 *                   N:hard     the streaming thread itself hangs: stopping never returns
 *   NVSTUB_CAMERAS  number of sensors (default 1); a sensor-id beyond fails with "No cameras available"
 */
#include <gst/gst.h>
#include <gst/base/gstbasetransform.h>
#include <stdlib.h>
#include <string.h>

#define NVMM "memory:NVMM"
#define EITHER "video/x-raw; video/x-raw(" NVMM ")"

static GstStaticPadTemplate either_sink =
    GST_STATIC_PAD_TEMPLATE ("sink", GST_PAD_SINK, GST_PAD_ALWAYS, GST_STATIC_CAPS (EITHER));
static GstStaticPadTemplate either_src =
    GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS (EITHER));

/* Show a pad of an inner element as the bin's own. */
static void
expose (GstElement * bin, GstElement * inner, const char *name, GstStaticPadTemplate * static_template)
{
  GstPad *pad = gst_element_get_static_pad (inner, name);
  GstPadTemplate *template = gst_static_pad_template_get (static_template);
  gst_element_add_pad (bin, gst_ghost_pad_new_from_template (name, pad, template));
  gst_object_unref (template);
  gst_object_unref (pad);
}

/* ---- relabel: passes buffers on and puts the NVMM label onto their caps or takes it off ---- */

typedef struct { GstBaseTransform parent; } NvStubRelabel;
typedef struct { GstBaseTransformClass parent; } NvStubRelabelClass;
GType nv_stub_relabel_get_type (void);
G_DEFINE_TYPE (NvStubRelabel, nv_stub_relabel, GST_TYPE_BASE_TRANSFORM)

static GstCaps *
relabel_transform_caps (GstBaseTransform * transform, GstPadDirection direction, GstCaps * caps, GstCaps * filter)
{
  GstCaps *plain = gst_caps_copy (caps), *labelled = gst_caps_copy (caps), *both;
  guint i;
  for (i = 0; i < gst_caps_get_size (plain); i++) {
    gst_caps_set_features (plain, i, gst_caps_features_new_empty ());
    gst_caps_set_features (labelled, i, gst_caps_features_new (NVMM, NULL));
  }
  both = gst_caps_merge (plain, labelled);
  if (filter) {
    GstCaps *kept = gst_caps_intersect_full (filter, both, GST_CAPS_INTERSECT_FIRST);
    gst_caps_unref (both);
    both = kept;
  }
  return both;
}

static GstFlowReturn
relabel_in_place (GstBaseTransform * transform, GstBuffer * buffer)
{
  return GST_FLOW_OK;
}

static void
nv_stub_relabel_class_init (NvStubRelabelClass * class)
{
  GstElementClass *element = GST_ELEMENT_CLASS (class);
  GstBaseTransformClass *transform = GST_BASE_TRANSFORM_CLASS (class);
  gst_element_class_add_static_pad_template (element, &either_sink);
  gst_element_class_add_static_pad_template (element, &either_src);
  gst_element_class_set_static_metadata (element, "NVMM label (stand-in)", "Filter", "labels caps", "edge-app");
  transform->transform_caps = relabel_transform_caps;
  transform->transform_ip = relabel_in_place;
  transform->passthrough_on_same_caps = FALSE;
  transform->transform_ip_on_passthrough = FALSE;
}

static void
nv_stub_relabel_init (NvStubRelabel * relabel)
{
  gst_base_transform_set_in_place (GST_BASE_TRANSFORM (relabel), TRUE);
}

/* ---- nvarguscamerasrc ---- */

/* The real type's name, so that elements get their real default names ("nvarguscamerasrc0"). */
typedef struct
{
  GstBin parent;
  GstElement *limit;            /* owned by the bin */
  gint sensor_id, num_buffers;
  gint64 seen, hang_after;      /* hang_after < 0: never */
  gdouble hang_seconds;         /* 0: for ever */
  gboolean hang_hard;
} GstNvArgusCameraSrc;
typedef struct { GstBinClass parent; } GstNvArgusCameraSrcClass;
typedef GstNvArgusCameraSrc Argus;
GType argus_get_type (void);
G_DEFINE_TYPE (GstNvArgusCameraSrc, argus, GST_TYPE_BIN)

static GstStaticPadTemplate argus_src = GST_STATIC_PAD_TEMPLATE ("src", GST_PAD_SRC, GST_PAD_ALWAYS,
    GST_STATIC_CAPS ("video/x-raw(" NVMM "), format=(string)NV12, width=(int)[1,2147483647], "
        "height=(int)[1,2147483647], framerate=(fraction)[0/1,120/1]"));

enum { PROPERTY_0, PROPERTY_SENSOR_ID, PROPERTY_NUM_BUFFERS };

static void
argus_set (GObject * object, guint id, const GValue * value, GParamSpec * spec)
{
  Argus *argus = (Argus *) object;
  if (id == PROPERTY_SENSOR_ID)
    argus->sensor_id = g_value_get_int (value);
  else if (id == PROPERTY_NUM_BUFFERS) {
    argus->num_buffers = g_value_get_int (value);
    if (argus->limit)           /* identity ends in place of buffer eos-after, so N frames need N + 1 */
      g_object_set (argus->limit, "eos-after", argus->num_buffers < 0 ? -1 : argus->num_buffers + 1, NULL);
  }
}

static void
argus_get (GObject * object, guint id, GValue * value, GParamSpec * spec)
{
  Argus *argus = (Argus *) object;
  g_value_set_int (value, id == PROPERTY_SENSOR_ID ? argus->sensor_id : argus->num_buffers);
}

static GstStateChangeReturn
argus_change_state (GstElement * element, GstStateChange change)
{
  Argus *argus = (Argus *) element;
  const char *cameras = g_getenv ("NVSTUB_CAMERAS");
  if (change == GST_STATE_CHANGE_READY_TO_PAUSED && argus->sensor_id >= (cameras ? atoi (cameras) : 1)) {
    GST_ELEMENT_ERROR (element, RESOURCE, NOT_FOUND, ("No cameras available"), ("sensor-id %d", argus->sensor_id));
    return GST_STATE_CHANGE_FAILURE;
  }
  return GST_ELEMENT_CLASS (argus_parent_class)->change_state (element, change);
}

static GstPadProbeReturn
argus_hang (GstPad * pad, GstPadProbeInfo * info, gpointer data)
{
  Argus *argus = data;
  gint64 number = argus->seen++;
  if (number < argus->hang_after || (argus->hang_seconds > 0 && number > argus->hang_after))
    return GST_PAD_PROBE_PASS;
  if (argus->hang_seconds > 0) {
    g_usleep ((gulong) (argus->hang_seconds * G_USEC_PER_SEC));
    return GST_PAD_PROBE_PASS;
  }
  while (argus->hang_hard)
    g_usleep (G_USEC_PER_SEC);
  return GST_PAD_PROBE_OK;      /* of a blocking probe: the pad stays blocked until it is flushed */
}

static void
argus_class_init (GstNvArgusCameraSrcClass * class)
{
  GObjectClass *object = G_OBJECT_CLASS (class);
  GstElementClass *element = GST_ELEMENT_CLASS (class);
  object->set_property = argus_set;
  object->get_property = argus_get;
  element->change_state = argus_change_state;
  g_object_class_install_property (object, PROPERTY_SENSOR_ID,
      g_param_spec_int ("sensor-id", "Sensor", "", 0, 255, 0, G_PARAM_READWRITE));
  g_object_class_install_property (object, PROPERTY_NUM_BUFFERS,
      g_param_spec_int ("num-buffers", "Frames", "", -1, G_MAXINT - 1, -1, G_PARAM_READWRITE));
  gst_element_class_add_static_pad_template (element, &argus_src);
  gst_element_class_set_static_metadata (element, "NvArgusCameraSrc (stand-in)", "Video/Capture",
      "stand-in for a Jetson's CSI camera", "edge-app");
}

static void
argus_read_hang (Argus * argus, const char *text)
{
  const char *colon = strchr (text, ':');
  argus->hang_after = g_ascii_strtoll (text, NULL, 10);
  if (colon) {
    argus->hang_hard = !strcmp (colon + 1, "hard");
    argus->hang_seconds = argus->hang_hard ? 0 : g_ascii_strtod (colon + 1, NULL);
  }
}

static void
argus_init (Argus * argus)
{
  const char *scene = g_getenv ("NVSTUB_SCENE"), *fault = g_getenv ("NVSTUB_FAULT"), *hang = g_getenv ("NVSTUB_HANG");
  GError *error = NULL;
  GstElement *inside, *relabel;
  GstPad *pad;
  /* drop-only, since a plain videorate holds every frame back by one or two */
  char *line = g_strdup_printf ("%s ! videoconvert ! videoscale ! videorate drop-only=true ! %s ! "
      "identity name=limit silent=true ! capsfilter caps=video/x-raw,format=NV12",
      scene && *scene ? scene : "videotestsrc is-live=true pattern=ball", fault && *fault ? fault : "identity");
  argus->num_buffers = -1;
  argus->hang_after = -1;
  inside = gst_parse_bin_from_description (line, TRUE, &error);
  g_free (line);
  if (!inside) {
    g_printerr ("nvstub: cannot build the scene: %s\n", error ? error->message : "?");
    g_clear_error (&error);
    return;
  }
  g_clear_error (&error);
  argus->limit = gst_bin_get_by_name (GST_BIN (inside), "limit");
  gst_object_unref (argus->limit);
  relabel = g_object_new (nv_stub_relabel_get_type (), NULL);
  gst_bin_add_many (GST_BIN (argus), inside, relabel, NULL);
  gst_element_link (inside, relabel);
  expose (GST_ELEMENT (argus), relabel, "src", &argus_src);
  if (hang && *hang) {
    argus_read_hang (argus, hang);
    pad = gst_element_get_static_pad (relabel, "src");
    gst_pad_add_probe (pad, GST_PAD_PROBE_TYPE_BLOCK | GST_PAD_PROBE_TYPE_BUFFER, argus_hang, argus, NULL);
    gst_object_unref (pad);
  }
}

/* ---- nvvidconv ---- */

typedef struct { GstBin parent; GstElement *flip; gint method; } Gstnvvconv;
typedef struct { GstBinClass parent; } GstnvvconvClass;
typedef Gstnvvconv Converter;
GType converter_get_type (void);
G_DEFINE_TYPE (Gstnvvconv, converter, GST_TYPE_BIN)

static GType
flip_method_get_type (void)
{
  static GType type = 0;
  static const GEnumValue values[] = {
    {0, "Identity", "none"},
    {1, "Rotate counter-clockwise", "counterclockwise"},
    {2, "Rotate by 180 degrees", "rotate-180"},
    {3, "Rotate clockwise", "clockwise"},
    {4, "Flip horizontally", "horizontal-flip"},
    {5, "Flip across the upper right diagonal", "upper-right-diagonal"},
    {6, "Flip vertically", "vertical-flip"},
    {7, "Flip across the upper left diagonal", "upper-left-diagonal"},
    {0, NULL, NULL}
  };
  if (!type)
    type = g_enum_register_static ("NvStubFlipMethod", values);
  return type;
}

/* from NVIDIA's numbers to videoflip's */
static const int videoflip_method[] = { 0, 3, 2, 1, 4, 7, 5, 6 };

static void
converter_set (GObject * object, guint id, const GValue * value, GParamSpec * spec)
{
  Converter *converter = (Converter *) object;
  converter->method = g_value_get_enum (value);
  g_object_set (converter->flip, "method", videoflip_method[converter->method], NULL);
}

static void
converter_get (GObject * object, guint id, GValue * value, GParamSpec * spec)
{
  g_value_set_enum (value, ((Converter *) object)->method);
}

static void
converter_class_init (GstnvvconvClass * class)
{
  GObjectClass *object = G_OBJECT_CLASS (class);
  GstElementClass *element = GST_ELEMENT_CLASS (class);
  object->set_property = converter_set;
  object->get_property = converter_get;
  g_object_class_install_property (object, 1,
      g_param_spec_enum ("flip-method", "Flip", "", flip_method_get_type (), 0, G_PARAM_READWRITE));
  gst_element_class_add_static_pad_template (element, &either_sink);
  gst_element_class_add_static_pad_template (element, &either_src);
  gst_element_class_set_static_metadata (element, "nvvidconv (stand-in)", "Filter/Converter/Video/Scaler",
      "stand-in for a Jetson's video converter", "edge-app");
}

static GstElement *
caps_filter (const char *text)
{
  GstElement *filter = gst_element_factory_make ("capsfilter", NULL);
  GstCaps *caps = gst_caps_from_string (text);
  g_object_set (filter, "caps", caps, NULL);
  gst_caps_unref (caps);
  return filter;
}

static void
converter_init (Converter * converter)
{
  GstElement *in = g_object_new (nv_stub_relabel_get_type (), NULL);
  GstElement *out = g_object_new (nv_stub_relabel_get_type (), NULL);
  GstElement *plain = caps_filter ("video/x-raw");
  GstElement *formats = caps_filter ("video/x-raw, format=(string){NV12,I420,BGRx,RGBA,GRAY8}");
  GstElement *scale = gst_element_factory_make ("videoscale", NULL);
  GstElement *convert = gst_element_factory_make ("videoconvert", NULL);
  converter->flip = gst_element_factory_make ("videoflip", NULL);
  gst_bin_add_many (GST_BIN (converter), in, plain, converter->flip, scale, convert, formats, out, NULL);
  gst_element_link_many (in, plain, converter->flip, scale, convert, formats, out, NULL);
  expose (GST_ELEMENT (converter), in, "sink", &either_sink);
  expose (GST_ELEMENT (converter), out, "src", &either_src);
}

static gboolean
plugin_init (GstPlugin * plugin)
{
  return gst_element_register (plugin, "nvarguscamerasrc", GST_RANK_NONE, argus_get_type ())
      && gst_element_register (plugin, "nvvidconv", GST_RANK_NONE, converter_get_type ());
}

#define PACKAGE "nvstub"
GST_PLUGIN_DEFINE (GST_VERSION_MAJOR, GST_VERSION_MINOR, nvstub, "stand-in for a Jetson's camera elements",
    plugin_init, "1.0", "MIT/X11", "edge-app", "edge-app")
