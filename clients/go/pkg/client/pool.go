package client

import (
	"errors"
	"sync/atomic"

	"github.com/sirupsen/logrus"
)

const defaultPoolSize = 5

// ConnectionPool is several connections to one server, given out in turn. One connection carries many calls at once;
// more of them help when the server has several cores, each of which serves connections of its own.
type ConnectionPool struct {
	clients []*Client
	turn    atomic.Uint64
}

// NewConnectionPool prepares size connections (5 if it is not positive, at most config's MaxConnections). Like NewClient
// it does not connect: each does with its first call.
func NewConnectionPool(size int, config *ClientConfig, logger *logrus.Logger) (*ConnectionPool, error) {
	complete, err := config.completed()
	if err != nil {
		return nil, err
	}
	if size <= 0 {
		size = min(defaultPoolSize, complete.MaxConnections)
	}
	if size > complete.MaxConnections {
		if logger != nil {
			logger.Warnf("a pool of %d connections was asked for: MaxConnections allows %d",
				size, complete.MaxConnections)
		}
		size = complete.MaxConnections
	}
	pool := &ConnectionPool{}
	for range size {
		client, err := NewClient(&complete, logger)
		if err != nil {
			return nil, errors.Join(err, pool.Close())
		}
		pool.clients = append(pool.clients, client)
	}
	return pool, nil
}

// Get returns the next connection in turn. It stays the pool's: do not close it.
func (p *ConnectionPool) Get() *Client {
	turn := p.turn.Add(1) - 1
	return p.clients[turn%uint64(len(p.clients))]
}

// Close ends every connection.
func (p *ConnectionPool) Close() error {
	var failed []error
	for _, client := range p.clients {
		failed = append(failed, client.Close())
	}
	return errors.Join(failed...)
}
