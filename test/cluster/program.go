package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// tailBytes is how much of a program's log is shown when it ends by itself:
// enough for a stack's head, short enough to be read.
const tailBytes = 4 << 10

// A program is one of the node's, restarted only when asked.
type program struct {
	name string
	argv []string
	log  string

	mu       sync.Mutex
	cmd      *exec.Cmd
	exited   chan struct{} // closed when cmd has been waited for
	expected bool          // this process killed it
}

// start runs the program in the place and the group, its output in its log.
// died is told when it ends and nobody asked for that.
func (p *program) start(in *place, group cgroup, died func(error)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// The shell joins the group before there is a child that could escape it.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `echo $$ >"$0" && exec "$@"`, group.programs()}, p.argv...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + programPath, "HOME=/root"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := in.do(cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited, p.expected = cmd, exited, false
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		expected := p.expected // before anyone who waits can start the next
		p.mu.Unlock()
		close(exited)
		if !expected {
			died(fmt.Errorf("%s ended by itself: %w\n%s", p.name, orZero(err), p.tail()))
		}
	}()
	return nil
}

func orZero(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// kill ends the program and waits for it.
func (p *program) kill(sig syscall.Signal) {
	p.mu.Lock()
	p.expected = true
	cmd, exited := p.cmd, p.exited
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	cmd.Process.Signal(sig)
	<-exited
}

// tail is the end of the program's log, for an error.
func (p *program) tail() string {
	f, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		f.Seek(max(0, size-tailBytes), io.SeekStart)
	}
	text, _ := io.ReadAll(f)
	return fmt.Sprintf("the end of %s:\n%s", p.log, bytes.TrimSpace(text))
}

// programs are all of the node's, in the order in which they start.
func programs(n *node) []*program {
	var all []*program
	for _, argv := range [][]string{
		n.etcd(), n.containerd(), n.apiserver(), n.controllerManager(), n.scheduler(), n.kubelet(), n.kubeProxy(),
	} {
		name := strings.TrimPrefix(filepath.Base(argv[0]), "kube-")
		all = append(all, &program{name: name, argv: argv, log: filepath.Join(n.dir, "logs", name+".log")})
	}
	return all
}
