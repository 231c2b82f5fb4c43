package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// maxDown bounds a fault's pause: beyond it the node counts as gone, and the
// controllers do things that no test here means.
const maxDown = 5 * time.Minute

// A request is what cluster fault sends to cluster up, one in a connection, as
// JSON; the answer comes when the fault has been done and, for a program of
// the node, when that is up again. Either Program or Pod is set.
type request struct {
	Program string        `json:"program,omitempty"`
	Pod     string        `json:"pod,omitempty"` // namespace/name
	Down    time.Duration `json:"down,omitempty"`
}

type answer struct {
	Error string `json:"error,omitempty"`
}

func faultCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fault", flag.ContinueOnError)
	dir := flags.String("dir", "", "")
	down := flags.Duration("down", 0, "")
	if err := parse(flags, args, "dir"); err != nil {
		return err
	}
	var r request
	program, restart := strings.CutSuffix(flags.Arg(0), "-restart")
	switch {
	case restart && flags.NArg() == 1:
		r = request{Program: program, Down: *down}
	case flags.Arg(0) == "pod-kill" && flags.NArg() == 2:
		r = request{Pod: flags.Arg(1)}
	default:
		return fmt.Errorf("name one fault\n  cluster %s", usages["fault"])
	}
	if *down < 0 || *down > maxDown {
		return fmt.Errorf("-down %s: want 0s to %s", *down, maxDown)
	}
	path := filepath.Join(*dir, "control.sock")
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("reach cluster up: %w: is it running with -dir %s?", err, *dir)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return err
	}
	var a answer
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return fmt.Errorf("cluster up gave no answer: %w", err)
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

// A control is the listening side: one fault at a time.
type control struct {
	node     *node
	listener net.Listener
	done     chan struct{}
	cancel   context.CancelFunc
}

func listenControl(n *node) (*control, error) {
	path := n.file("control.sock")
	if err := os.RemoveAll(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &control{n, l, make(chan struct{}), cancel}
	go func() {
		defer close(c.done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.handle(ctx, conn)
		}
	}()
	return c, nil
}

// Close ends a fault that is under way and returns when it has ended.
func (c *control) Close() {
	c.cancel()
	c.listener.Close()
	<-c.done
}

func (c *control) handle(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second)) // one short line
	var r request
	var a answer
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		a.Error = "the request does not parse: " + err.Error()
	} else if err := c.node.fault(ctx, r); err != nil {
		a.Error = err.Error()
	}
	json.NewEncoder(conn).Encode(a)
}
