package jetstream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/queue"
)

const (
	// startWait is how long a server may take to read its folder, of a caller
	// that sets no end: some GiB of calls take seconds.
	startWait = 2 * time.Minute
	// watchEvery is how often it is looked at whether the server can write.
	watchEvery = 500 * time.Millisecond
	// unbounded is the server's own bound of disk: the streams' and Reserve
	// bound it here.
	unbounded = 1 << 60
	// syncEvery is how often data goes to the disk unless each write does.
	syncEvery = 10 * time.Second

	leastReserve = 64 << 20
	mostReserve  = 1 << 30
)

// inside is a NATS server in this process.
type inside struct {
	cfg     Config
	options server.Options
	log     *serverLog

	mu      sync.Mutex
	running *server.Server
	killed  bool        // an earlier server of this folder was not stopped
	full    atomic.Bool // for the log: there is no room
}

func startInside(ctx context.Context, cfg Config) (*inside, error) {
	in := &inside{cfg: cfg, log: &serverLog{log: cfg.Log}}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	mark := filepath.Join(cfg.Dir, marker)
	if _, err := os.Stat(mark); err == nil {
		in.killed = true
	}
	cut, err := checkBlocks(cfg.Dir, in.killed)
	if err != nil {
		return nil, err
	}
	if len(cut) > 0 {
		cfg.Log.Warn("weir was killed while it wrote; what it had not acknowledged is dropped", "files", cut)
	}
	in.options = server.Options{
		ServerName: cfg.Name, DontListen: true, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: cfg.Dir, JetStreamMaxStore: unbounded, JetStreamMaxMemory: 1 << 20,
		SyncAlways: cfg.Sync, SyncInterval: syncEvery,
		MaxPayload: int32(min(cfg.MaxData+head, 1<<30)),
		// A client that is slow to read is this process: it is not cut off.
		MaxPending: 1 << 32, WriteDeadline: time.Minute,
		Username: cfg.User, Password: cfg.Password, Authorization: cfg.Token,
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return nil, err
	}
	if cfg.Listen != "" {
		if err := in.listenAt(cfg.Listen); err != nil {
			return nil, err
		}
	}
	if err := in.start(ctx); err != nil {
		in.stop()
		return nil, err
	}
	return in, nil
}

func (in *inside) listenAt(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address of the NATS server inside weir: %w", err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("address of the NATS server inside weir: %q is no port", port)
	}
	ip := net.ParseIP(host)
	if open := in.options.Username == "" && in.options.Authorization == ""; open && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("the NATS server inside weir would be open to everybody at %s: give a user and a password, or a token, or listen on 127.0.0.1", address)
	}
	in.options.DontListen, in.options.Host, in.options.Port = false, host, int(number)
	if number == 0 {
		in.options.Port = server.RANDOM_PORT
	}
	return nil
}

// start begins a server and waits until it has read its folder.
func (in *inside) start(ctx context.Context) error {
	in.log.forget()
	options := in.options
	srv, err := server.NewServer(&options)
	if err != nil {
		return err
	}
	srv.SetLoggerV2(in.log, false, false, false)
	started := make(chan struct{})
	go func() { defer close(started); srv.Start() }()
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	select {
	case <-started:
	case <-ctx.Done():
		srv.Shutdown()
		<-started
		return fmt.Errorf("read the folder: %w: %w", queue.ErrAway, ctx.Err())
	}
	in.mu.Lock()
	in.running = srv
	in.mu.Unlock()
	if !srv.ReadyForConnections(callTimeout) {
		return fmt.Errorf("the server did not start: %s", in.log.said())
	}
	if !srv.JetStreamEnabled() {
		return fmt.Errorf("the server cannot use it: %s: check that weir may read and write all of it, and that there is room", in.log.said())
	}
	return nil
}

// marker is there while a server uses the folder: it was killed where a new one
// finds it.
const marker = "weir-store-in-use"

// close stops the server for good.
func (in *inside) close() {
	in.stop()
	os.Remove(filepath.Join(in.cfg.Dir, marker))
}

func (in *inside) stop() {
	in.mu.Lock()
	srv := in.running
	in.running = nil
	in.mu.Unlock()
	if srv != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
}

// InProcessConn connects to the server that runs now.
func (in *inside) InProcessConn() (net.Conn, error) {
	in.mu.Lock()
	srv := in.running
	in.mu.Unlock()
	if srv == nil {
		return nil, queue.ErrAway
	}
	return srv.InProcessConn()
}

// mayMake refuses to begin a stream anew that is on the disk and was not read.
func (in *inside) mayMake(stream string) error {
	path := in.folder(stream)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%s is there and cannot be read (%s): put the folder back from a backup, or move it away to begin with an empty queue: what it holds is lost then", path, in.log.said())
}

func (in *inside) folder(stream string) string {
	return filepath.Join(in.cfg.Dir, "jetstream", "$G", "streams", stream)
}

// messages is the folder of a stream's blocks.
func (in *inside) messages(stream string) string { return filepath.Join(in.folder(stream), "msgs") }

// room refuses what would not leave the reserve.
func (in *inside) room(n int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(in.cfg.Dir, &st); err != nil {
		return fmt.Errorf("%w: free space of %s: %w", queue.ErrAway, in.cfg.Dir, err)
	}
	reserve := in.cfg.Reserve
	if reserve == 0 {
		reserve = min(max(leastReserve, int64(st.Blocks)*st.Bsize/50), mostReserve)
	}
	free := int64(st.Bavail) * st.Bsize
	if free-n >= reserve {
		if in.full.CompareAndSwap(true, false) {
			in.cfg.Log.Info("there is room for calls again", "dir", in.cfg.Dir, "free", free)
		}
		return nil
	}
	if in.full.CompareAndSwap(false, true) {
		in.cfg.Log.Warn("no more calls are queued: the disk is nearly full", "dir", in.cfg.Dir, "free", free, "reserve", reserve)
	}
	return fmt.Errorf("%w: %s has %d bytes free, and %d are kept for what is queued already", queue.ErrFull, in.cfg.Dir, free, reserve)
}

// watch begins the server anew when it cannot write any more, as after a disk
// that was full, once it can. Until then it answers nothing.
func (in *inside) watch(ctx context.Context) {
	for pause(ctx, watchEvery) {
		if !in.broken() {
			continue
		}
		in.cfg.Log.Error("the store of calls cannot write", "dir", in.cfg.Dir, "err", in.log.said())
		in.stop()
		for in.room(0) != nil || in.start(ctx) != nil {
			in.stop()
			if !pause(ctx, watchEvery) {
				return
			}
		}
		in.cfg.Log.Info("the store of calls writes again", "dir", in.cfg.Dir)
	}
}

func (in *inside) broken() bool {
	in.mu.Lock()
	srv := in.running
	in.mu.Unlock()
	return srv == nil || !srv.JetStreamEnabled() || in.log.cannotWrite.Load()
}

// serverLog is what the server has to say: warnings and worse.
type serverLog struct {
	log *slog.Logger
	// cannotWrite: a stream or the server as a whole has stopped writing. The
	// server has no other way to say so.
	cannotWrite atomic.Bool

	mu    sync.Mutex
	lines []string
}

const keptLines = 8

func (l *serverLog) say(level slog.Level, format string, args []any) {
	text := fmt.Sprintf(format, args...)
	l.log.Log(context.Background(), level, "NATS server", "text", text)
	if level < slog.LevelWarn {
		return
	}
	for _, sign := range []string{"critical write error", "Critical write error", "will be DISABLED", "disabling JetStream"} {
		if strings.Contains(text, sign) {
			l.cannotWrite.Store(true)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) < keptLines {
		l.lines = append(l.lines, text)
	}
}

func (l *serverLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = nil
	l.cannotWrite.Store(false)
}

func (l *serverLog) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == 0 {
		return "it says nothing more"
	}
	return strings.Join(l.lines, "; ")
}

func (l *serverLog) Noticef(format string, args ...any) { l.say(slog.LevelDebug, format, args) }
func (l *serverLog) Debugf(format string, args ...any)  {}
func (l *serverLog) Tracef(format string, args ...any)  {}
func (l *serverLog) Warnf(format string, args ...any)   { l.say(slog.LevelWarn, format, args) }
func (l *serverLog) Errorf(format string, args ...any)  { l.say(slog.LevelError, format, args) }
func (l *serverLog) Fatalf(format string, args ...any)  { l.say(slog.LevelError, format, args) }
