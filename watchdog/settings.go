package watchdog

import (
	"strings"
	"time"
)

// setting is one row of the table that reading, docs/CONFIG.md and the README
// share: the only place where a name or a default is written.
type setting struct {
	// names are the lower-case spellings; of two that are set the first wins.
	names []string
	// either: a bool with two spellings of which one that says true is enough.
	either bool
	// def is the default as a user would write it, "" for none. classic
	// replaces it in classic mode when it is not nil.
	def     string
	classic *string
	// derived says in words what the default is, where it is no constant.
	derived string
	// modes the setting is of, "" for all.
	modes   string
	meaning string
	field   func(*values) field
}

// field is what the table knows of a value.
type field interface {
	Set(text string) error
	// wanted says what was expected, "" when the text parsed.
	wanted() string
	kind() string
}

// values is what envconfig fills, with the prefix WATCHDOG and split_words.
// It has no envconfig tags: with one, envconfig would fall back to the
// unprefixed upper-case name, and an image's own PORT would configure us.
type values struct {
	FunctionProcess     command  `split_words:"true"`
	Mode                text     `split_words:"true"`
	Port                number   `split_words:"true"`
	MetricsPort         number   `split_words:"true"`
	ListenAddress       text     `split_words:"true"`
	HTTPUpstreamURL     text     `split_words:"true"`
	StaticPath          text     `split_words:"true"`
	ReadTimeout         duration `split_words:"true"`
	WriteTimeout        duration `split_words:"true"`
	ExecTimeout         duration `split_words:"true"`
	HealthcheckInterval duration `split_words:"true"`
	ShutdownTimeout     duration `split_words:"true"`
	KillGrace           duration `split_words:"true"`
	MaxInflight         inflight `split_words:"true"`
	MaxQueue            number   `split_words:"true"`
	QueueTimeout        duration `split_words:"true"`
	ReadyQueue          number   `split_words:"true"`
	MaxMemory           use      `split_words:"true"`
	MaxFds              use      `split_words:"true"`
	MaxPids             use      `split_words:"true"`
	MinDisk             free     `split_words:"true"`
	DiskPath            text     `split_words:"true"`
	StuckTimeout        patience `split_words:"true"`
	MaxBody             size     `split_words:"true"`
	HTTPBufferReqBody   toggle   `split_words:"true"`
	ContentType         text     `split_words:"true"`
	CGIHeaders          toggle   `split_words:"true"`
	SuppressLock        toggle   `split_words:"true"`
	ReadyPath           text     `split_words:"true"`
	PrefixLogs          toggle   `split_words:"true"`
	LogBufferSize       number   `split_words:"true"`
	LogCallid           toggle   `split_words:"true"`
	LogFormat           text     `split_words:"true"`
	LogLevel            level    `split_words:"true"`
	JWTAuth             toggle   `split_words:"true"`
	JWTAuthDebug        toggle   `split_words:"true"`
	JWTAuthLocal        toggle   `split_words:"true"`
	CombineOutput       toggle   `split_words:"true"`
	WriteDebug          toggle   `split_words:"true"`
	DebugHeaders        toggle   `split_words:"true"`
	MarshalRequest      toggle   `split_words:"true"`
}

const (
	forkModes     = "streaming, serializing, classic"
	processModes  = "streaming, serializing, http, classic"
	prefix        = "WATCHDOG"
	drainInterval = 5 * time.Second // longest default pause before a drain closes the listener
)

var settings = []setting{
	{
		names: []string{"function_process", "fprocess"}, modes: processModes,
		meaning: "The handler's command, split as a shell does (quotes, backslash, several spaces), without globbing or variables. Mode http without it only proxies.",
		field:   func(v *values) field { return &v.FunctionProcess },
	},
	{
		names: []string{"mode"}, def: string(ModeStreaming), classic: new(string(ModeClassic)),
		meaning: "How requests reach the handler: `streaming`, `serializing`, `http`, `static` or `classic`. `fwatchdog-classic` is told by `WATCHDOG_MODE` only.",
		field:   func(v *values) field { return &v.Mode },
	},
	{
		names: []string{"port"}, def: "8080",
		meaning: "Port of the function; 0 takes a free one.",
		field:   func(v *values) field { return &v.Port },
	},
	{
		names: []string{"metrics_port"}, def: "8081",
		meaning: "Port of `/metrics`; 0 takes a free one.",
		field:   func(v *values) field { return &v.MetricsPort },
	},
	{
		names: []string{"listen_address"}, derived: "every address",
		meaning: "IP address that both ports are on, such as `127.0.0.1` where nobody but this machine is to reach them.",
		field:   func(v *values) field { return &v.ListenAddress },
	},
	{
		names: []string{"http_upstream_url", "upstream_url"}, modes: "http",
		meaning: "Where the handler listens: `http://host:port`, with a base path if it has one, or `unix:///path.sock`.",
		field:   func(v *values) field { return &v.HTTPUpstreamURL },
	},
	{
		names: []string{"static_path"}, def: "/home/app/public", modes: "static",
		meaning: "The folder that is served.",
		field:   func(v *values) field { return &v.StaticPath },
	},
	{
		names: []string{"read_timeout"}, def: "30s",
		meaning: "Bounds the reading of one request, not its waiting; 0 is no bound.",
		field:   func(v *values) field { return &v.ReadTimeout },
	},
	{
		names: []string{"write_timeout"}, def: "30s",
		meaning: "Bounds one answer, from the handler's start; must be over 0. Upgraded connections and event streams are exempt.",
		field:   func(v *values) field { return &v.WriteTimeout },
	},
	{
		names: []string{"exec_timeout"}, def: "30s", classic: new("0"),
		meaning: "Bounds one invocation; 0 is no bound. A request may ask for less by `X-Timeout`. Upgraded connections are exempt.",
		field:   func(v *values) field { return &v.ExecTimeout },
	},
	{
		names: []string{"healthcheck_interval"}, derived: "the smaller of `write_timeout` and 5s",
		meaning: "How long a drain goes on serving, unready, before the listener closes.",
		field:   func(v *values) field { return &v.HealthcheckInterval },
	},
	{
		names: []string{"shutdown_timeout"}, derived: "`write_timeout`",
		meaning: "Most that a drain may take after `healthcheck_interval`; 0 cuts at once what still runs.",
		field:   func(v *values) field { return &v.ShutdownTimeout },
	},
	{
		names: []string{"kill_grace"}, def: "5s", modes: processModes,
		meaning: "Time between TERM and KILL to the handler's process group; 0 kills at once.",
		field:   func(v *values) field { return &v.KillGrace },
	},
	{
		names: []string{"max_inflight"}, def: "0",
		meaning: "Invocations that may run at once; one more waits if there is a queue, else it is answered 429. `auto:64` finds the limit by itself and stays at or below 64; `auto` is `auto:1000`. 0 or less is no bound.",
		field:   func(v *values) field { return &v.MaxInflight },
	},
	{
		names: []string{"max_queue"}, def: "0",
		meaning: "Requests that may wait for one of `max_inflight`, first come first served; one more is answered 503. 0 lets none wait.",
		field:   func(v *values) field { return &v.MaxQueue },
	},
	{
		names: []string{"queue_timeout"}, derived: "`exec_timeout`",
		meaning: "Longest wait, then 503; 0 is no bound. A request may ask for less by `X-Timeout`, which counts from its arrival.",
		field:   func(v *values) field { return &v.QueueTimeout },
	},
	{
		names: []string{"ready_queue"}, derived: "half of `max_queue`",
		meaning: "With a queue, `/_/ready` answers 429 while more than this many wait.",
		field:   func(v *values) field { return &v.ReadyQueue },
	},
	{
		names: []string{"max_memory"}, def: "90%",
		meaning: "Refuse above this share of the memory limit, or above so much: `200Mi`; `off`.",
		field:   func(v *values) field { return &v.MaxMemory },
	},
	{
		names: []string{"max_fds"}, def: "90%",
		meaning: "Refuse above this share of the descriptors that the handler or the watchdog may have open, or above so many: `900`; `off`.",
		field:   func(v *values) field { return &v.MaxFds },
	},
	{
		names: []string{"max_pids"}, def: "90%",
		meaning: "Refuse above this share of the processes and threads that there may be, or above so many: `900`; `off`.",
		field:   func(v *values) field { return &v.MaxPids },
	},
	{
		names: []string{"min_disk"}, def: "1%",
		meaning: "Refuse below this share of free bytes or inodes, or below so many bytes: `256Mi`; `off`.",
		field:   func(v *values) field { return &v.MinDisk },
	},
	{
		names: []string{"disk_path"}, derived: "`TMPDIR`, or `/tmp`",
		meaning: "A folder of the file system that `min_disk` is about.",
		field:   func(v *values) field { return &v.DiskPath },
	},
	{
		names: []string{"stuck_timeout"}, def: "off",
		meaning: "Liveness fails when one of the four marks above has been passed for this long with at most one request in flight, so that a handler that leaks is restarted; `off` or 0 never.",
		field:   func(v *values) field { return &v.StuckTimeout },
	},
	{
		names: []string{"max_body"}, def: "0",
		meaning: "Longest request body, and longest answer where it is buffered, as bytes or `64Ki`, `512Mi`, `1G`; 0 is no bound, but 512Mi in the modes that hold bodies in memory.",
		field:   func(v *values) field { return &v.MaxBody },
	},
	{
		names: []string{"http_buffer_req_body", "buffer_http"}, either: true, def: "false", modes: "http",
		meaning: "Read the request body first and send it with a Content-Length.",
		field:   func(v *values) field { return &v.HTTPBufferReqBody },
	},
	{
		names: []string{"content_type"}, def: "application/octet-stream", classic: new(""), modes: forkModes,
		meaning: "Content-Type of answers. Unset in classic mode: that of the request.",
		field:   func(v *values) field { return &v.ContentType },
	},
	{
		names: []string{"cgi_headers"}, def: "true", modes: forkModes,
		meaning: "Give the request's headers, method, path and query to the process as `Http_…` variables.",
		field:   func(v *values) field { return &v.CGIHeaders },
	},
	{
		names: []string{"suppress_lock"}, def: "false",
		meaning: "Write no lock file; `-run-healthcheck` then fails, `/_/health` works.",
		field:   func(v *values) field { return &v.SuppressLock },
	},
	{
		names:   []string{"ready_path"},
		meaning: "When set, `/_/ready` also asks the function at this path.",
		field:   func(v *values) field { return &v.ReadyPath },
	},
	{
		names: []string{"prefix_logs"}, def: "true", modes: processModes,
		meaning: "Put date, time and stream before each line of the handler.",
		field:   func(v *values) field { return &v.PrefixLogs },
	},
	{
		names: []string{"log_buffer_size"}, def: "65536", modes: processModes,
		meaning: "Longest line of the handler in bytes, a longer one is split; -1 is no bound.",
		field:   func(v *values) field { return &v.LogBufferSize },
	},
	{
		names: []string{"log_callid", "log_call_id"}, either: true, def: "false",
		meaning: "Put the request's `X-Call-Id` into the access log.",
		field:   func(v *values) field { return &v.LogCallid },
	},
	{
		names: []string{"log_format"}, def: "text",
		meaning: "Form of the watchdog's own lines: `text` or `json`.",
		field:   func(v *values) field { return &v.LogFormat },
	},
	{
		names: []string{"log_level"}, def: "info",
		meaning: "`debug` also logs each change of an `auto` limit.",
		field:   func(v *values) field { return &v.LogLevel },
	},
	{
		names: []string{"jwt_auth"}, def: "false",
		meaning: "Ask for a token of OpenFaaS's issuer on every request. Needs `OPENFAAS_NAME` and `OPENFAAS_NAMESPACE`.",
		field:   func(v *values) field { return &v.JWTAuth },
	},
	{
		names: []string{"jwt_auth_debug"}, def: "false",
		meaning: "Log what is checked about a token.",
		field:   func(v *values) field { return &v.JWTAuthDebug },
	},
	{
		names: []string{"jwt_auth_local"}, def: "false",
		meaning: "The issuer is at http://127.0.0.1:8000 instead of http://gateway.openfaas:8080.",
		field:   func(v *values) field { return &v.JWTAuthLocal },
	},
	{
		names: []string{"combine_output"}, def: "true", modes: "classic",
		meaning: "Merge what the process writes to stderr into the answer; else it is logged.",
		field:   func(v *values) field { return &v.CombineOutput },
	},
	{
		names: []string{"write_debug"}, def: "false", modes: "classic",
		meaning: "Log what the process answers.",
		field:   func(v *values) field { return &v.WriteDebug },
	},
	{
		names: []string{"debug_headers"}, def: "false", modes: "classic",
		meaning: "Log the headers of requests.",
		field:   func(v *values) field { return &v.DebugHeaders },
	},
	{
		names: []string{"marshal_request"}, def: "false", modes: "classic",
		meaning: "Give the process headers and body as one JSON document.",
		field:   func(v *values) field { return &v.MarshalRequest },
	},
}

// upper is the alternative spelling of a lower-case name.
func upper(name string) string { return prefix + "_" + strings.ToUpper(name) }

// defaultFor is the text of the default in mode m.
func (s *setting) defaultFor(m Mode) string {
	if m == ModeClassic && s.classic != nil {
		return *s.classic
	}
	return s.def
}

// defaultsFor are the values before anything is read.
func defaultsFor(m Mode) *values {
	v := new(values)
	for i := range settings {
		f := settings[i].field(v)
		_ = f.Set(settings[i].defaultFor(m))
	}
	v.Mode.val = string(m)
	v.HealthcheckInterval.given, v.ShutdownTimeout.given = false, false
	return v
}

// config is what the values mean, with the defaults that depend on others.
func (v *values) config() Config {
	c := Config{
		Mode: Mode(v.Mode.val), Command: v.FunctionProcess.val,
		Port: v.Port.val, MetricsPort: v.MetricsPort.val, ListenAddress: v.ListenAddress.val,
		UpstreamURL: v.HTTPUpstreamURL.val, StaticPath: v.StaticPath.val,
		ReadTimeout: v.ReadTimeout.val, WriteTimeout: v.WriteTimeout.val, ExecTimeout: v.ExecTimeout.val,
		HealthcheckInterval: v.HealthcheckInterval.val, ShutdownTimeout: v.ShutdownTimeout.val, KillGrace: v.KillGrace.val,
		MaxInflight: v.MaxInflight.val.limit, AutoInflight: v.MaxInflight.val.auto,
		MaxQueue: v.MaxQueue.val, QueueTimeout: v.QueueTimeout.val, ReadyQueue: v.ReadyQueue.val,
		MaxMemory: v.MaxMemory.val, MaxFds: v.MaxFds.val, MaxPids: v.MaxPids.val,
		MinDisk: v.MinDisk.val, DiskPath: v.DiskPath.val, StuckTimeout: v.StuckTimeout.val,
		MaxBody: v.MaxBody.val, BufferHTTP: v.HTTPBufferReqBody.val,
		ContentType: v.ContentType.val, CGIHeaders: v.CGIHeaders.val,
		SuppressLock: v.SuppressLock.val, ReadyPath: v.ReadyPath.val,
		PrefixLogs: v.PrefixLogs.val, LogBufferSize: v.LogBufferSize.val,
		LogCallID: v.LogCallid.val, LogFormat: v.LogFormat.val, LogDebug: v.LogLevel.val,
		JWTAuth: v.JWTAuth.val, JWTAuthDebug: v.JWTAuthDebug.val, JWTAuthLocal: v.JWTAuthLocal.val,
		CombineOutput: v.CombineOutput.val, WriteDebug: v.WriteDebug.val,
		DebugHeaders: v.DebugHeaders.val, MarshalRequest: v.MarshalRequest.val,
	}
	if !v.HealthcheckInterval.given {
		c.HealthcheckInterval = min(c.WriteTimeout, drainInterval)
	}
	if !v.ShutdownTimeout.given {
		c.ShutdownTimeout = c.WriteTimeout
	}
	if !v.QueueTimeout.given {
		c.QueueTimeout = c.ExecTimeout
	}
	if !v.ReadyQueue.given {
		c.ReadyQueue = max(0, c.MaxQueue) / 2
	}
	if c.Mode == ModeStatic || c.Mode == ModeInproc {
		c.Command = nil
	}
	return c
}

// Defaults is the Config of mode m when nothing is set. Modes that need a
// command, an upstream or a handler are valid only once they have it.
func Defaults(m Mode) Config {
	c := defaultsFor(m).config()
	c.LockPath, c.DiskPath = LockPath(nil), tempFolder(nil)
	return c
}
