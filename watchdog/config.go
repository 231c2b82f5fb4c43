package watchdog

import (
	"net/http"
	"time"

	"github.com/weir-run/weir/limiter/guard"
)

// Mode is how a watchdog hands requests to its handler.
type Mode string

// The modes. ModeInproc is for Go programs that use this package; it cannot
// be asked for by the environment of fwatchdog.
const (
	ModeStreaming   Mode = "streaming"
	ModeSerializing Mode = "serializing"
	ModeHTTP        Mode = "http"
	ModeClassic     Mode = "classic"
	ModeStatic      Mode = "static"
	ModeInproc      Mode = "inproc"
)

// Config is everything a Watchdog is told. The zero value is not usable:
// start from Defaults or FromEnv. The package never reads the environment on
// its own.
type Config struct {
	Mode Mode
	// Command is the handler's program and its arguments. Empty in static
	// and inproc mode, and in http mode that only proxies.
	Command []string
	// Environ is the environment of the handler.
	Environ []string
	// Handler serves the requests of ModeInproc.
	Handler http.Handler

	Port        int
	MetricsPort int
	// ListenAddress is the IP address of both; empty is every one.
	ListenAddress string
	// UpstreamURL is where the handler listens in http mode:
	// http://host:port/base or unix:///path.sock.
	UpstreamURL string
	StaticPath  string

	// ReadTimeout bounds the reading of one request, 0 none. WriteTimeout is
	// over 0 and counts from the handler's start. ExecTimeout bounds one
	// invocation, 0 none.
	ReadTimeout  time.Duration
	WriteTimeout time.Duration
	ExecTimeout  time.Duration
	// HealthcheckInterval is how long a drain goes on serving before the
	// listener closes; ShutdownTimeout how long what runs may then take;
	// KillGrace the time between TERM and KILL to the handler's group.
	HealthcheckInterval time.Duration
	ShutdownTimeout     time.Duration
	KillGrace           time.Duration

	// MaxInflight bounds the invocations that run at once; 0 or less is off,
	// more than limiter.MaxLimit is that. With AutoInflight it is over 0 and
	// the highest value of a limit that is found while serving.
	MaxInflight  int
	AutoInflight bool
	// MaxQueue requests may wait for one of MaxInflight, which it needs;
	// 0 refuses at once. QueueTimeout is the longest wait, 0 for no bound.
	// While more than ReadyQueue wait, at most MaxQueue, the watchdog is not
	// ready for more.
	MaxQueue     int
	QueueTimeout time.Duration
	ReadyQueue   int

	// MaxMemory, MaxFds, MaxPids and MinDisk are how far the four may be used
	// before requests are refused; the zero Mark is off. DiskPath is a folder
	// of the file system that MinDisk is about.
	MaxMemory, MaxFds, MaxPids guard.Mark
	MinDisk                    guard.Mark
	DiskPath                   string
	// StuckTimeout is how long one of them may be passed, with at most one
	// request in flight, before liveness fails; 0 is for ever.
	StuckTimeout time.Duration

	// MaxBody bounds a request body in bytes, in every mode, and an answer
	// where it is buffered; 0 is none. Modes that buffer have a bound of
	// their own when it is 0: DefaultBufferedBody.
	MaxBody int64

	// ContentType of answers in the modes that fork. Empty in classic mode
	// echoes the request's.
	ContentType string
	CGIHeaders  bool
	// BufferHTTP reads the request body first, in http mode, and sends it
	// with a Content-Length.
	BufferHTTP   bool
	SuppressLock bool
	// LockPath is the file that says to an exec probe that requests are taken.
	LockPath string
	// ReadyPath, when not empty, is asked of the function by /_/ready.
	ReadyPath string

	// PrefixLogs puts date, time and stream before each line of the handler.
	PrefixLogs bool
	// LogBufferSize is the longest line of the handler, -1 unbounded.
	LogBufferSize int
	LogCallID     bool
	// LogFormat of the watchdog's own lines: "text" or "json".
	LogFormat string
	// LogDebug also logs each change of an adaptive limit.
	LogDebug bool

	JWTAuth      bool
	JWTAuthDebug bool
	JWTAuthLocal bool
	// FunctionName and FunctionNamespace are what a token must be for.
	FunctionName      string
	FunctionNamespace string

	// Of classic mode only.
	CombineOutput  bool
	WriteDebug     bool
	DebugHeaders   bool
	MarshalRequest bool
}

// DefaultBufferedBody bounds request and answer in the modes that hold them
// in memory, when MaxBody is 0.
const DefaultBufferedBody = 512 << 20
