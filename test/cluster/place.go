package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Documentation ranges (RFC 5737), so that no packet of a test could mean
// another machine even if it left the namespace.
const (
	nodeIP      = "198.51.100.1"
	servicesIP  = "198.51.101.1" // the first of servicesNet is the API server's
	servicesNet = "198.51.101.0/24"
	podsNet     = "198.51.102.0/24"
)

// A place is where the programs of the node run: a network namespace that has
// a name, so that tests can enter it, and a mount namespace that has none, so
// that every mount in it is gone with its last process, however that died.
//
// One locked thread is in both. What is started or dialled through do is in
// them too, and programs that ask for it are killed when this process dies.
type place struct {
	jobs chan func()
	done chan struct{}
}

// enter makes the place. netns exists; binds are folders of the host that the
// node's programs write to whatever they are told, and the folders that stand
// in for them.
func enter(netns string, binds map[string]string) (*place, error) {
	p := &place{jobs: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	go func() {
		defer close(p.done)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := join(netns, binds)
		ready <- err
		if err != nil {
			return
		}
		for job := range p.jobs {
			job()
		}
	}()
	return p, <-ready
}

func join(netns string, binds map[string]string) error {
	ns, err := os.Open("/run/netns/" + netns)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer ns.Close()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", netns, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// containerd's shims and CNI use /run whatever they are told.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("private /run: %w", err)
	}
	for host, own := range binds {
		if err := errors.Join(os.MkdirAll(host, 0o755), os.MkdirAll(own, 0o755)); err != nil {
			return err
		}
		if err := unix.Mount(own, host, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("put %s in the place of %s: %w", own, host, err)
		}
	}
	return nil
}

// do runs f on the thread that is inside.
func (p *place) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case p.jobs <- func() { result <- f() }:
		return <-result
	case <-p.done:
		return errors.New("the node has ended")
	}
}

// leave ends the thread, and with it whatever was started to die with it.
func (p *place) leave() {
	close(p.jobs)
	<-p.done
}

// dial connects from inside to an address that needs no name looked up.
func (p *place) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = p.do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// makeNetns makes the namespace: a node address on a bridge without ports,
// which stands in for the dummy device that some kernels lack, and a default
// route into it, which leads nowhere.
func makeNetns(ctx context.Context, name string) error {
	steps := [][]string{
		{"netns", "add", name},
		{"-n", name, "link", "set", "lo", "up"},
		{"-n", name, "link", "add", "eth0", "type", "bridge"},
		{"-n", name, "addr", "add", nodeIP + "/24", "dev", "eth0"},
		{"-n", name, "link", "set", "eth0", "up"},
		{"-n", name, "route", "add", "default", "dev", "eth0"},
	}
	for _, args := range steps {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// removeNetns removes the namespace's name; the namespace itself goes with
// its last process.
func removeNetns(name string) error {
	path := filepath.Join("/run/netns", name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
