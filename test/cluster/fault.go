package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listens is where each program answers when it is up again.
var listens = map[string]string{
	"controller-manager": "127.0.0.1:10257",
	"scheduler":          "127.0.0.1:10259",
	"kubelet":            nodeIP + ":10250",
	"proxy":              "127.0.0.1:10256",
}

func (n *node) fault(ctx context.Context, r request) error {
	if r.Pod != "" {
		return n.killPod(ctx, r.Pod)
	}
	var names []string
	for _, p := range n.programs {
		// etcd keeps its data in memory, and it is the only copy.
		if p.name == "etcd" {
			continue
		}
		if p.name == r.Program {
			return n.restart(ctx, p, r.Down)
		}
		names = append(names, p.name)
	}
	return fmt.Errorf("the node has no program %q to restart; it has %s", r.Program, strings.Join(names, ", "))
}

// restart kills a program as the kernel would, waits, starts it again and
// waits until it answers.
func (n *node) restart(ctx context.Context, p *program, down time.Duration) error {
	p.kill(syscall.SIGKILL)
	select {
	case <-ctx.Done():
		return errors.New("the node stops")
	case <-time.After(down):
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not within %s", startTimeout))
	defer cancel()
	if err := p.start(n.place, n.group, n.fail); err != nil {
		return err
	}
	return n.wait(ctx, p.name+" answers", func(ctx context.Context) error {
		switch p.name {
		case "apiserver":
			return n.client.ready(ctx)
		case "containerd":
			_, err := ctr(ctx, n.socket(), nil, "images", "list", "-q")
			return err
		}
		conn, err := n.place.dial(ctx, "tcp", listens[p.name])
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// killPod sends SIGKILL to every process of the pod's containers, from
// outside, as a machine that takes a process away does.
func (n *node) killPod(ctx context.Context, name string) error {
	namespace, pod, ok := strings.Cut(name, "/")
	if !ok || namespace == "" || pod == "" || strings.Contains(pod, "/") {
		return fmt.Errorf("pod %q: want NAMESPACE/NAME", name)
	}
	body, err := n.client.get(ctx, "/api/v1/namespaces/"+namespace+"/pods/"+pod)
	if err != nil {
		return err
	}
	var object struct {
		Status struct {
			ContainerStatuses []struct{ ContainerID string }
		}
	}
	if err := json.Unmarshal(body, &object); err != nil {
		return fmt.Errorf("pod %s: %w", name, err)
	}
	dirs, err := n.group.dirs(n.group.track)
	if err != nil {
		return err
	}
	killed := 0
	for _, c := range object.Status.ContainerStatuses {
		id := strings.TrimPrefix(c.ContainerID, "containerd://")
		for _, dir := range dirs {
			if id == "" || filepath.Base(dir) != id {
				continue
			}
			pids, err := procs(dir)
			if err != nil {
				return err
			}
			for _, pid := range pids {
				if unix.Kill(pid, unix.SIGKILL) == nil {
					killed++
				}
			}
		}
	}
	if killed == 0 {
		return fmt.Errorf("pod %s has no running process to kill", name)
	}
	return nil
}
