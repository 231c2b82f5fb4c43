package main

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	nodeName = "node"
	// startTimeout bounds the whole start: 14 s on two idle cores, so this is a
	// machine that does ten other things.
	startTimeout = 5 * time.Minute
	// stopTimeout bounds the end of what SIGKILL was sent to.
	stopTimeout = time.Minute
	// maxSocketPath is what the kernel takes (sun_path, without its zero).
	maxSocketPath = 107
)

// netnsName keeps names that are a file name, a cgroup's and an argument.
var netnsName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// A node is one Kubernetes node in one folder and one network namespace.
type node struct {
	dir, bin, netns string

	group    cgroup
	pki      *pki
	place    *place
	client   *client
	programs []*program
	died     chan error // the first program that ended by itself
}

func upCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	dir := flags.String("dir", "", "")
	bin := flags.String("bin", "", "")
	netns := flags.String("netns", "", "")
	keep := flags.Bool("keep", false, "")
	if err := parse(flags, args, "dir", "bin", "netns"); err != nil {
		return err
	}
	n, err := newNode(*dir, *netns)
	if err != nil {
		return err
	}
	if err := n.check(*bin); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !*keep {
		go func() {
			// Whoever started this holds the other end; when it dies, so do we.
			io.Copy(io.Discard, os.Stdin)
			fmt.Fprintln(os.Stderr, "cluster: stdin has ended, so the node stops (-keep would keep it)")
			cancel()
		}()
	}
	return n.run(ctx, os.Stdout)
}

func downCommand(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("down", flag.ContinueOnError)
	dir := flags.String("dir", "", "")
	netns := flags.String("netns", "", "")
	if err := parse(flags, args, "dir", "netns"); err != nil {
		return err
	}
	n, err := newNode(*dir, *netns)
	if err != nil {
		return err
	}
	unlock, err := n.claim()
	if err != nil {
		return err
	}
	unlock()
	return nil
}

func newNode(dir, netns string) (*node, error) {
	if err := needRoot("a node (namespaces, cgroups, containers)"); err != nil {
		return nil, err
	}
	if !netnsName.MatchString(netns) {
		return nil, fmt.Errorf("-netns %q: want a letter, then letters, digits and hyphens, at most 32, all lower case", netns)
	}
	n := &node{netns: netns, died: make(chan error, 1)}
	var err error
	if n.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	n.group, err = findCgroup("weir-" + netns)
	return n, err
}

// check looks for what a start needs, before anything is begun.
func (n *node) check(bin string) error {
	if pkgs := missing(); len(pkgs) > 0 {
		return fmt.Errorf("programs of the Debian packages %s are missing: run cluster deps", strings.Join(pkgs, ", "))
	}
	var err error
	if n.bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	for _, name := range []string{"pause", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"} {
		if _, err := os.Stat(n.program(name)); err != nil {
			return fmt.Errorf("program of the node: %w: run cluster build -bin %s", err, n.bin)
		}
	}
	for _, hidden := range []string{"/run", "/var/run", "/var/log", "/var/lib/cni", "/var/lib/kubelet"} {
		if strings.HasPrefix(n.dir+"/", hidden+"/") || strings.HasPrefix(n.bin+"/", hidden+"/") {
			return fmt.Errorf("-dir and -bin must not be below %s, which the node sees its own of", hidden)
		}
	}
	if over := len(n.socket()+".ttrpc") - maxSocketPath; over > 0 {
		return fmt.Errorf("-dir %s: the path is too long for a Unix socket below it; choose one shorter by %d", n.dir, over)
	}
	return nil
}

// run brings the node up, says so on out, and keeps it until ctx ends or one
// of its programs does.
func (n *node) run(ctx context.Context, out io.Writer) error {
	// Whatever outlives its parent becomes this process's child, to be reaped in
	// down: some machines' first process takes its time.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of the node's orphans: %w", err)
	}
	unlock, err := n.claim()
	if err != nil {
		return err
	}
	defer unlock()
	err = n.up(ctx)
	if err == nil {
		fmt.Fprintf(out, "ready %s %s\n", n.file("admin.kubeconfig"), n.netns)
		err = n.serve(ctx)
	}
	if ctx.Err() != nil {
		err = nil // told to stop, which may cut anything short
	}
	return errors.Join(err, n.down())
}

// claim takes the folder and the namespace's name, and cleans what a killed
// predecessor left of either.
func (n *node) claim() (func(), error) {
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return nil, err
	}
	dirLock, err := lock(n.file("lock"), false)
	if err != nil {
		return nil, fmt.Errorf("%w: if a cluster runs in %s, stop it or choose another -dir", err, n.dir)
	}
	// The mark says that the namespace is a cluster's, living or killed.
	mark := "/run/weir-cluster-" + n.netns
	_, unmarked := os.Stat(mark)
	_, noNetns := os.Stat("/run/netns/" + n.netns)
	if unmarked != nil && noNetns == nil {
		dirLock()
		return nil, fmt.Errorf("the network namespace %s exists and is no cluster's: choose another -netns, or ip netns delete %s", n.netns, n.netns)
	}
	nameLock, err := lock(mark, false)
	if err != nil {
		dirLock()
		return nil, fmt.Errorf("%w: if a cluster runs in the network namespace %s, stop it or choose another -netns", err, n.netns)
	}
	unlock := func() {
		if _, err := os.Stat("/run/netns/" + n.netns); err != nil {
			os.Remove(mark) // else the next one cleans what is left
		}
		nameLock()
		dirLock()
	}
	if err := errors.Join(n.clean(), n.wipe()); err != nil {
		unlock()
		return nil, fmt.Errorf("clean after a cluster that was killed: %w", err)
	}
	return unlock, nil
}

// clean ends every process of the node and removes its group and namespace.
func (n *node) clean() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return errors.Join(n.group.kill(ctx), removeNetns(n.netns))
}

// wipe removes what a node keeps in its folder, except what is named.
func (n *node) wipe(keep ...string) error {
	var left error
	for _, name := range []string{
		"containerd", "containerd.sock", "containerd.sock.ttrpc", "control.sock", "cni-state", "kubelet",
		"settings", "pki", "admin.kubeconfig", "logs", "var-log", "audit.log",
	} {
		if !slices.Contains(keep, name) {
			left = errors.Join(left, os.RemoveAll(n.file(name)))
		}
	}
	return left
}

// up starts everything and waits until a pod could be scheduled.
func (n *node) up(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("the node was not ready within %s", startTimeout))
	defer cancel()
	if err := n.prepare(ctx); err != nil {
		return err
	}
	byName := map[string]*program{}
	n.programs = programs(n)
	for _, p := range n.programs {
		byName[p.name] = p
	}
	start := func(names ...string) error {
		for _, name := range names {
			if err := byName[name].start(n.place, n.group, n.fail); err != nil {
				return err
			}
		}
		return nil
	}
	if err := start("etcd", "containerd", "apiserver"); err != nil {
		return err
	}
	if err := n.importPause(ctx); err != nil {
		return err
	}
	if err := n.wait(ctx, "the API server answers /readyz", n.client.ready); err != nil {
		return err
	}
	if err := start("controller-manager", "scheduler", "kubelet", "proxy"); err != nil {
		return err
	}
	if err := n.wait(ctx, "the node is Ready", n.client.nodeReady); err != nil {
		return err
	}
	return n.wait(ctx, "the default ServiceAccount is there", n.client.accountReady)
}

// prepare makes the namespace, the group, the certificates and the settings.
func (n *node) prepare(ctx context.Context) error {
	if err := errors.Join(os.MkdirAll(n.file("logs"), 0o755), os.MkdirAll(n.file("settings"), 0o700), n.group.make(), makeNetns(ctx, n.netns)); err != nil {
		return err
	}
	var err error
	if n.pki, err = newPKI(n.file("pki")); err != nil {
		return err
	}
	const masters = "system:masters"
	for user, subject := range map[string]pkix.Name{
		"admin":              {CommonName: "admin", Organization: []string{masters}},
		"apiserver-kubelet":  {CommonName: "apiserver-kubelet", Organization: []string{masters}},
		"controller-manager": {CommonName: "system:kube-controller-manager"},
		"scheduler":          {CommonName: "system:kube-scheduler"},
		"kube-proxy":         {CommonName: "system:kube-proxy"},
		"kubelet":            {CommonName: "system:node:" + nodeName, Organization: []string{"system:nodes"}},
		"apiserver":          {CommonName: "apiserver"},
	} {
		hosts := map[string][]string{
			"apiserver": {nodeIP, servicesIP, "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
			"kubelet":   {nodeIP, nodeName},
		}[user]
		if err := n.pki.issue(user, subject, hosts...); err != nil {
			return err
		}
		if err := n.pki.kubeconfig(n.setting(user+".kubeconfig"), user); err != nil {
			return err
		}
	}
	if err := errors.Join(n.writeSettings(), n.pki.kubeconfig(n.file("admin.kubeconfig"), "admin")); err != nil {
		return err
	}
	n.place, err = enter(n.netns, map[string]string{
		"/var/lib/kubelet": n.file("kubelet"),
		"/var/lib/cni":     n.file("cni-state"),
		"/var/log":         n.file("var-log"),
	})
	if err != nil {
		n.place = nil
		return err
	}
	n.client, err = newClient(n.pki, n.place)
	return err
}

// fail keeps the first program that ended by itself.
func (n *node) fail(err error) {
	select {
	case n.died <- err:
	default:
	}
}

// wait asks until the answer is yes, a program has died, or ctx ends.
func (n *node) wait(ctx context.Context, what string, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case died := <-n.died:
			return died
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w: %w; see %s", what, context.Cause(ctx), err, n.file("logs"))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// serve keeps the node and does what cluster fault asks.
func (n *node) serve(ctx context.Context) error {
	control, err := listenControl(n)
	if err != nil {
		return err
	}
	defer control.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-n.died:
		return err
	}
}

// down ends all there is of the node. Its logs stay until the next start, for
// whoever looks for a fault.
func (n *node) down() error {
	for _, p := range n.programs {
		p.mu.Lock()
		p.expected = true
		p.mu.Unlock()
	}
	err := n.clean()
	for _, p := range n.programs {
		p.kill(syscall.SIGKILL)
	}
	if n.place != nil {
		n.place.leave()
	}
	if err == nil {
		reap()
	}
	return errors.Join(err, n.wipe("logs", "var-log", "audit.log"))
}

// reap takes the exit status of every orphan that was killed. Every program
// and every other command has been waited for by then, so none is stolen.
func reap() {
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && err != unix.EINTR {
			return // ECHILD: no child is left
		}
	}
}
