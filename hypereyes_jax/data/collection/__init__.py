"""The paper's first stage with any model: filters of questions, progressive rejection sampling, filters, selection."""
